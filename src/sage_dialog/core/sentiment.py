"""VADER compound scores as NLTK computes them (paper §3.1), also where NLTK's lexicon cannot be downloaded.

NLTK and the vaderSentiment package disagree on a fifth of all scores; the paper used NLTK. Where NLTK's
`vader_lexicon` resource is not installed, the same lexicon is built from the one in the vaderSentiment package and the
five entries in which the two differ.

Rules and constants are NLTK's own, called for words with a valence only. NLTK's own entry point takes ten times as
long: it builds a table of every word with every punctuation, and calls the rules for all words.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

from sage_dialog.core.nltk_modules import bare_nltk, nltk_module

_RESOURCE = "sentiment/vader_lexicon.zip/vader_lexicon/vader_lexicon.txt"
_PUNCTUATION = frozenset(string.punctuation)
_PACKAGE_ONLY = (":P", "heart", "hearts", "flawed")
_NLTK_VALUES = {":p": 1.4, "badass": -0.6}


def installed_lexicon() -> dict[str, float] | None:
    """Return NLTK's `vader_lexicon` resource; None if it is not on `nltk.data.path`."""
    with bare_nltk():
        data = nltk_module("nltk.data")
        try:
            return _entries(data.load(_RESOURCE, format="text", encoding="utf-8", cache=False))
        except LookupError:
            return None


def packaged_lexicon() -> dict[str, float]:
    """Return the same lexicon, built from the vaderSentiment package."""
    text = resources.files("vaderSentiment").joinpath("vader_lexicon.txt").read_text(encoding="utf-8")
    entries = _entries(text)
    for word in _PACKAGE_ONLY:
        del entries[word]
    return entries | _NLTK_VALUES


def _entries(text: str) -> dict[str, float]:
    """Return mean valences by word; the last entry of a word wins, as in NLTK."""
    columns = (line.strip().split("\t") for line in text.split("\n") if line.strip())
    return {row[0]: float(row[1]) for row in columns}


def lexicon() -> dict[str, float]:
    """Return NLTK's lexicon, installed or packaged."""
    return installed_lexicon() or packaged_lexicon()


@cache
def compound() -> Callable[[str], float]:
    """Return the function from a text to its compound score in [-1, 1], rounded to four decimals as in NLTK."""
    vader = nltk_module("nltk.sentiment.vader")
    analyzer = object.__new__(vader.SentimentIntensityAnalyzer)  # its __init__ would load the resource
    analyzer.lexicon, analyzer.constants = lexicon(), vader.VaderConstants()
    # NLTK calls it three times for every word with a valence.
    is_negation = lru_cache(1 << 14)(lambda word, negated=analyzer.constants.negated: negated([word]))
    analyzer.constants.negated = lambda words: any(map(is_negation, words))
    valence, boosters = analyzer.lexicon, analyzer.constants.BOOSTER_DICT
    punctuation = frozenset(analyzer.constants.PUNC_LIST)

    def score(text: str) -> float:
        words = _words(text, punctuation)
        lowered = " ".join(words).lower().split(" ")
        if valence.keys().isdisjoint(lowered):
            return 0.0
        tokens = _Tokens(words, _has_emphasis(words))
        sentiments: list[float] = []
        for word, lower in zip(words, lowered, strict=True):
            # NLTK looks at the context of the first occurrence of the word.
            if lower not in valence or lower in boosters or _is_kind_of(lowered, lower, words, word):
                sentiments.append(0)
            else:
                analyzer.sentiment_valence(0, tokens, word, words.index(word), sentiments)
        return float(analyzer.score_valence(analyzer._but_check(words, sentiments), text)["compound"])

    return score


class _Tokens(NamedTuple):
    """The attributes of a text that NLTK's rules read."""

    words_and_emoticons: list[str]
    is_cap_diff: bool


def _words(text: str, punctuation: frozenset[str]) -> list[str]:
    """Return words of two or more characters, without leading or trailing punctuation unless they contain more.

    Contractions and most emoticons stay as they are.
    """
    words = text.split()
    return [word if word.isalnum() else _strip(word, punctuation) for word in words if len(word) > 1]


def _strip(word: str, punctuation: frozenset[str]) -> str:
    for bare, rest in (
        (start := word.rstrip(string.punctuation), word[len(start) :]),
        (end := word.lstrip(string.punctuation), word[: len(word) - len(end)]),
    ):
        if len(bare) > 1 and rest in punctuation and (bare.isalnum() or not _PUNCTUATION.intersection(bare)):
            return bare
    return word


def _has_emphasis(words: list[str]) -> bool:
    return 0 < sum(map(str.isupper, words)) < len(words)


def _is_kind_of(lowered: list[str], lower: str, words: list[str], word: str) -> bool:
    after = words.index(word) + 1 if lower == "kind" else len(words)
    return after < len(words) and lowered[after] == "of"
