"""What may stand at the end of a line that is being typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from sage_dialog.sac import Chain
from sage_dialog.sac.grammar import FIELDS, is_list_field
from sage_dialog.studio.chat.commands import COMMANDS

if TYPE_CHECKING:
    import pyarrow as pa

MOST_WORDS = 100
"""Offered at a time; who wants another types more of it."""


def known_values(annotations: pa.Table) -> dict[str, list[str]]:
    """The values that each field of the form has in annotated dialogues (schemas.ANNOTATIONS), frequent ones first."""
    import pyarrow.compute as pc

    values: dict[str, list[str]] = {}
    for field in FIELDS:
        role = "user" if field.startswith("u_") else "assistant"
        column = {"motivation": "motivation", "emotion": "emotion", "topic": "topics"}[field[2:]]
        told = annotations.filter(pc.equal(annotations["role"], role))[column]
        counted = (pc.list_flatten(told) if is_list_field(field) else told).drop_null().value_counts().to_pylist()
        counted.sort(key=lambda each: (-each["counts"], each["values"]))
        values[field] = [each["values"] for each in counted]
    return values


def learn(known: dict[str, list[str]], chain: Chain) -> None:
    """Adds the values of a chain to those known."""
    for prefix, intent in (("u", chain.state), ("a", chain.action)):
        told = {"motivation": (intent.motivation,), "emotion": (intent.emotion,), "topic": intent.topics}
        for name, values in told.items():
            words = known.setdefault(f"{prefix}_{name}", [])
            words.extend(value for value in dict.fromkeys(values) if value and value not in words)


def completions(line: str, known: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int]]:
    """What may take the place of the end of a line, and of how many of its letters.

    A word ends with a space where something must come behind it.

    Args:
        line: up to the cursor.
        known: values by field.
    """
    command, behind, rest = line.partition(" ")
    if not command.startswith("/"):
        return
    if not behind:
        yield from _beginning(command, [f"/{name} " if each.usage else f"/{name}" for name, each in COMMANDS.items()])
    elif command == "/blocks":
        yield from _beginning(rest, ("on", "off"))
    elif command == "/topics":
        yield from _values("a_topic", rest, known)
    elif command in ("/boost", "/fix", "/clear"):
        field, behind, value = rest.partition(" ")
        if not behind:
            yield from _beginning(field, FIELDS if command == "/clear" else [f"{name} " for name in FIELDS])
        elif command == "/boost":
            yield from _beginning(value.lstrip(), known.get(field, ()))
        elif command == "/fix":
            yield from _values(field, value, known)


def _values(field: str, text: str, known: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int]]:
    begun = text.rpartition(",")[2] if is_list_field(field) else text
    yield from _beginning(begun.lstrip(), known.get(field, ()))


def _beginning(begun: str, words: Sequence[str]) -> Iterator[tuple[str, int]]:
    yield from islice(((word, len(begun)) for word in words if word.startswith(begun)), MOST_WORDS)
