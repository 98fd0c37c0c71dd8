"""Phrase lists in TOML files, and the text measures that the offline roles share.

The roles share these functions; most of their word lists in `lexicons/` are their own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

Pattern = tuple[tuple[str, ...], ...]  # the alternatives at each position

_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_GAP = ".."
_GAP_WORDS = 3
_STEM_CHARS = 2  # stems are looked up by their first letters
_NEGATIONS = frozenset({"not", "never", "no", "hardly", "without", "neither", "nor"})


def words(text: str) -> list[str]:
    """Return the words in lower case, with the apostrophes and hyphens inside them."""
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def content_words(tokens: Sequence[str]) -> set[str]:
    """Return the words without function words, in the singular."""
    bare = (token.removesuffix("n't").split("'")[0] for token in tokens)
    return {_singular(token) for token in bare if len(token) > 2 and token not in function_words()}


def sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE_END.split(text.strip()) if part]


def trigrams(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(tokens[start : start + 3]) for start in range(len(tokens) - 2)}


def _singular(token: str) -> str:
    return token[:-1] if token.endswith("s") and not token.endswith("ss") and len(token) > 3 else token


@cache
def read_lexicon(name: str) -> dict[str, Any]:
    """Read `lexicons/<name>.toml`."""
    return tomllib.loads(_read_text(f"{name}.toml"))


@cache
def function_words() -> frozenset[str]:
    return frozenset(_read_text("function_words.txt").split())


def _read_text(name: str) -> str:
    return (resources.files("sage_dialog.roles.offline") / "lexicons" / name).read_text("utf-8")


def split_phrases(text: str) -> list[str]:
    """Return the different phrases of a comma-separated list, in order."""
    return list(dict.fromkeys(" ".join(part.split()) for part in text.split(",") if part.strip()))


class Phrases:
    """Named, comma-separated lists of phrases to find in a sequence of words.

    A phrase consists of words separated by spaces: a word, a stem (`terrif*`), alternatives (`worry/fret`), or a gap of
    up to three words (`..`).

    Raises:
        ValueError: naming list and phrase, if a phrase starts with a gap or a stem is too short.
    """

    def __init__(self, lists: Mapping[str, str]) -> None:
        self.names = tuple(lists)
        self._by_start: dict[str, list[tuple[str, str, Pattern]]] = {}
        for name, text in lists.items():
            for phrase in sorted(split_phrases(text)):
                pattern = tuple(tuple(slot.split("/")) for slot in phrase.split(" "))
                for word in pattern[0]:
                    if word == _GAP or (word.endswith("*") and len(word) <= _STEM_CHARS):
                        raise ValueError(f"phrase {phrase!r} of list {name!r}: begin it with a word, or a longer stem")
                    start = f"{word[:_STEM_CHARS]}*" if word.endswith("*") else word
                    self._by_start.setdefault(start, []).append((name, phrase, ((word,), *pattern[1:])))

    def weights(self, tokens: Sequence[str]) -> dict[str, float]:
        """Return the weight of each list with a match: 1 for each different word, 2 for each longer phrase.

        A single word directly after a negation ("not happy") does not count.
        """
        found: dict[str, dict[str, float]] = {}
        for start, token in enumerate(tokens):
            for key in (token, f"{token[:_STEM_CHARS]}*"):
                for name, phrase, pattern in self._by_start.get(key, ()):
                    if not _matches(pattern, tokens, start) or (len(pattern) == 1 and _negated(tokens, start)):
                        continue
                    found.setdefault(name, {})[phrase] = 1.0 if len(pattern) == 1 else 2.0
        return {name: sum(phrases.values()) for name, phrases in found.items()}


@cache
def read_phrases(name: str, section: str | None = None) -> Phrases:
    """Return the phrase lists of a lexicon or of a section of it; a table has its list under `cues`."""
    lists = read_lexicon(name)[section] if section else read_lexicon(name)
    return Phrases({key: value["cues"] if isinstance(value, dict) else value for key, value in lists.items()})


def _matches(pattern: Pattern, tokens: Sequence[str], start: int) -> bool:
    if not pattern:
        return True
    if pattern[0] == (_GAP,):
        return any(_matches(pattern[1:], tokens, start + skipped) for skipped in range(_GAP_WORDS + 1))
    if start >= len(tokens) or not any(_fits(word, tokens[start]) for word in pattern[0]):
        return False
    return _matches(pattern[1:], tokens, start + 1)


def _fits(word: str, token: str) -> bool:
    return token.startswith(word[:-1]) if word.endswith("*") else token == word


def _negated(tokens: Sequence[str], start: int) -> bool:
    return any(token in _NEGATIONS or token.endswith("n't") for token in tokens[max(0, start - 2) : start])
