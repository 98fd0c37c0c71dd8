"""VADER compound scores as NLTK computes them (paper §3.1), also where NLTK's lexicon cannot be downloaded.

NLTK's analyser and the vaderSentiment package disagree on a fifth of all scores; the paper used NLTK's.
NLTK ships no lexicon. Where its `vader_lexicon` resource is not installed, the same lexicon is built from
the one in the vaderSentiment package and the five entries in which the two differ.

Importing nltk takes more than a second (it pulls scipy and pandas where they are installed), so it
happens at the first score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import resources

_RESOURCE = "sentiment/vader_lexicon.zip/vader_lexicon/vader_lexicon.txt"
_PACKAGE_ONLY = (":P", "heart", "hearts", "flawed")
_NLTK_VALUES = {":p": 1.4, "badass": -0.6}


def installed_lexicon() -> dict[str, float] | None:
    """NLTK's `vader_lexicon` resource; None where it is not on `nltk.data.path`."""
    import nltk

    try:
        return _entries(nltk.data.load(_RESOURCE, format="text", encoding="utf-8", cache=False))
    except LookupError:
        return None


def packaged_lexicon() -> dict[str, float]:
    """The same lexicon, built from the vaderSentiment package."""
    text = resources.files("vaderSentiment").joinpath("vader_lexicon.txt").read_text(encoding="utf-8")
    entries = _entries(text)
    for word in _PACKAGE_ONLY:
        del entries[word]
    return entries | _NLTK_VALUES


def _entries(text: str) -> dict[str, float]:
    """Word to mean valence; of a word listed twice the last entry holds, as in NLTK."""
    columns = (line.strip().split("\t") for line in text.split("\n") if line.strip())
    return {row[0]: float(row[1]) for row in columns}


@cache
def compound() -> Callable[[str], float]:
    """The function from a text to its compound score in [-1, 1], rounded to four decimals as NLTK does."""
    from nltk.sentiment.vader import SentimentIntensityAnalyzer, VaderConstants

    class Analyzer(SentimentIntensityAnalyzer):
        def __init__(self, lexicon: dict[str, float]) -> None:
            self.lexicon = lexicon
            self.constants = VaderConstants()

    analyzer = Analyzer(installed_lexicon() or packaged_lexicon())
    return lambda text: float(analyzer.polarity_scores(text)["compound"])
