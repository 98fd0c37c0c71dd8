"""Formatting of values and names in messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_CHARACTERS = 60
_MAX_NAMES = 3


def printable(text: str) -> str:
    """Return a text on one line without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "�" for letter in text)


def shorten(text: str) -> str:
    """Return a printable text of at most `MAX_CHARACTERS` characters."""
    text = printable(text)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def format_value(value: Any) -> str:
    """Return a value for a message, shortened."""
    return shorten("missing" if value is None else str(value))


def format_names(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names and the number of the others."""
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return printable(separator.join(names[:_MAX_NAMES])) + more


def tree_differences(before: Any, after: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key and both values where two trees differ; a missing key is None."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from tree_differences(before.get(key), after.get(key), f"{path}.{key}" if path else str(key))
    elif before != after:
        yield path, before, after


def flatten(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by dotted key; a list or an empty mapping is a leaf."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= flatten(value, f"{path}{name}.")
        else:
            leaves[f"{path}{name}"] = value
    return leaves
