"""Completion of a line by Tab: commands, fields, and values of annotated dialogues."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from sage_dialog.core.tables import DataFrame
from sage_dialog.sac import Chain
from sage_dialog.sac.grammar import FIELDS, is_list_field
from sage_dialog.studio.chat.terminal.commands import COMMANDS

MAX_WORDS = 100
"""Number of completions at a time."""


def known_values(annotations: DataFrame) -> dict[str, list[str]]:
    """Return the values of each field in annotated dialogues (schemas.ANNOTATIONS), frequent ones first."""
    columns = {"motivation": "motivation", "emotion": "emotion", "topic": "topics"}
    values: dict[str, list[str]] = {}
    for field in FIELDS:
        role = "user" if field.startswith("u_") else "assistant"
        column = annotations.loc[annotations["role"] == role, columns[field[2:]]]
        counts = (column.explode() if is_list_field(field) else column).value_counts()  # without nulls
        values[field] = [value for _, value in sorted(zip(-counts, counts.index, strict=True))]
    return values


def add_values(known: dict[str, list[str]], chain: Chain) -> None:
    """Add the values of a chain to the known ones."""
    for prefix, intent in (("u", chain.state), ("a", chain.action)):
        labels = {"motivation": (intent.motivation,), "emotion": (intent.emotion,), "topic": intent.topics}
        for name, values in labels.items():
            words = known.setdefault(f"{prefix}_{name}", [])
            words.extend(value for value in dict.fromkeys(values) if value and value not in words)


def completions(line: str, known: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int]]:
    """Yield completions of a line up to the cursor, each with the number of letters that it replaces.

    A word ends with a space where another must follow.
    """
    command, space, rest = line.partition(" ")
    if not command.startswith("/"):
        return
    if not space:
        yield from _matching(command, [f"/{name} " if each.usage else f"/{name}" for name, each in COMMANDS.items()])
    elif command == "/blocks":
        yield from _matching(rest, ("on", "off"))
    elif command == "/topics":
        yield from _matching_values("a_topic", rest, known)
    elif command in ("/boost", "/fix", "/clear"):
        field, space, value = rest.partition(" ")
        if not space:
            yield from _matching(field, FIELDS if command == "/clear" else [f"{name} " for name in FIELDS])
        elif command == "/boost":
            yield from _matching(value.lstrip(), known.get(field, ()))
        elif command == "/fix":
            yield from _matching_values(field, value, known)


def _matching_values(field: str, text: str, known: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int]]:
    prefix = text.rpartition(",")[2] if is_list_field(field) else text
    yield from _matching(prefix.lstrip(), known.get(field, ()))


def _matching(prefix: str, words: Sequence[str]) -> Iterator[tuple[str, int]]:
    yield from islice(((word, len(prefix)) for word in words if word.startswith(prefix)), MAX_WORDS)
