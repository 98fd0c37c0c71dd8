"""What a comment says, as one line of plain text, and the properties of it that rules ask about.

Rules that need NLTK's tokens first ask a cheap question that settles most texts; where it does not, the tokens
are made. Tests hold both ways to the same answer.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice, pairwise
from typing import Any

import numpy as np

from sage_dialog.core.nltk_modules import nltk_module
from sage_dialog.corpora.reddit.columns import TextColumn

# English function words, about the fifty most frequent words of any English text (DialoGPT's paper, §2, asks that a
# response hold one of the fifty most frequent).
COMMON_WORDS = frozenset({
    "the", "be", "to", "of", "and", "a", "in", "that", "have", "i", "it", "for", "not", "on", "with", "he",
    "as", "you", "do", "at", "this", "but", "his", "by", "from", "they", "we", "say", "her", "she", "or", "an",
    "will", "my", "one", "all", "would", "there", "their", "what", "so", "up", "out", "if", "about", "who",
    "get", "which", "go", "me", "is", "are", "was",
})  # fmt: skip

_APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'"})
_SHORTHAND = {"b/c": "because", "j/k": "just kidding", "w/o": "without", "w/": "with "}
_SHORTHAND_PATTERN = re.compile(r"(?<![\w/])(?:b/c\b|j/k\b|w/o\b|w/)")
_ALLOWED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789()[]:,.!?' "
_NOT_ALLOWED = re.compile(f"[^{re.escape(_ALLOWED)}]")
_ASCII_ALLOWED = bytes(byte if chr(byte) in _ALLOWED else 32 for byte in range(256))
_STAY_LAST = np.frombuffer(_ALLOWED.rstrip().encode(), np.uint8)
_BRACKET = re.compile(r"[()\[\]]")
_LETTERS_AND_SPACE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz "
# Words of letters with at most one apostrophe inside and one mark behind: of these TweetTokenizer makes a token of the
# word and one of the mark, whatever stands around them. So it does of short ones of digits that stand alone.
_PLAIN_WORDS = re.compile(r"(?:(?:[A-Za-z]+(?:'[A-Za-z]+)?(?:[,!?]|\.+)?|[0-9]{1,6}[,!?]?)(?: |$))*")
# The tokens that have a space in them: numbers of telephones, and dots with spaces between.
_TOKEN_WITH_SPACE = re.compile(r"\d[ .()]+\d|\. \.")


def normalised(body: str) -> str:
    """A comment as one line of plain text: the recipe's character set, hashtags dropped, shorthand spelled out.

    The recipe stores NLTK's tokens joined by spaces (`tokenised`). Otherwise the words are kept as written ("sad."
    and not "sad ."), since what is kept is what models learn to say. Typographic apostrophes and HTML entities,
    which the recipe turns into spaces, are read as what they stand for.
    """
    if body.isascii() and not ("&" in body or "#" in body or "/" in body):
        return b" ".join(body.encode().translate(_ASCII_ALLOWED, b"\\").split()).decode()
    body = html.unescape(body)
    words = body.translate(_APOSTROPHES).split()
    text = " ".join(word for word in words if not word.startswith("#")).replace("\\", "")
    text = _SHORTHAND_PATTERN.sub(lambda found: _SHORTHAND[found.group()], text)
    return " ".join(_NOT_ALLOWED.sub(" ", text).split())


def with_link(bodies: TextColumn) -> np.ndarray:
    """Which bodies hold a link outside of a hashtag."""
    return bodies.confirmed(bodies.matching("(?i)http"), _has_link)


def _has_link(body: str) -> bool:
    return "#" not in body or any("http" in word.lower() for word in body.split() if not word.startswith("#"))


def with_bracket(bodies: TextColumn) -> np.ndarray:
    """Which bodies hold a bracket in their normalised text."""
    odd = bodies.rows_with(b"&") | bodies.rows_with(b"#")  # an entity may become one, a hashtag takes its own away
    return bodies.matching(r"[()\[\]]") & ~odd | bodies.confirmed(
        odd, lambda body: _BRACKET.search(normalised(body)) is not None
    )


def with_question(bodies: TextColumn) -> np.ndarray:
    """Which bodies end with a question mark in their normalised text."""
    odd = bodies.rows_with(b"&") | bodies.rows_with(b"#")
    last = bodies.last_bytes()
    asks = (last == ord("?")) & ~odd
    # Behind a sign that the normalised text leaves out, or an entity or hashtag, another may be the last one.
    unsure = ~(asks | np.isin(last, _STAY_LAST)) | odd
    return asks | bodies.confirmed(unsure, lambda body: ("?" in body or "&" in body) and normalised(body).endswith("?"))


def holds_common_words(text: str, wanted: int) -> bool:
    """Whether a normalised text holds that many of the most common English words; one said twice counts twice."""
    common = (word for word in text.lower().split() if word.strip(":,.!?'") in COMMON_WORDS)
    return sum(1 for _ in islice(common, wanted)) == wanted


def tweet_tokens(text: str) -> tuple[str, ...]:
    """NLTK's TweetTokenizer, case kept."""
    return tuple(_tokenizer().tokenize(text))


def tokens_at_most(text: str) -> int:
    """At least as many as `tweet_tokens` finds in a normalised text.

    A token ends within a run of letters only if it began before the run, so every token has a run of letters or
    another character of its own to begin with.
    """
    others = len(text.encode().translate(None, _LETTERS_AND_SPACE))
    return text.count(" ") + 1 + 2 * others


def has_long_token(text: str, more_than: int, tokens: Callable[[], Sequence[str]]) -> bool:
    """Whether a normalised text holds a token of more than so many characters; `tokens` makes them if need be."""
    if max(map(len, text.split()), default=0) <= more_than and not _TOKEN_WITH_SPACE.search(text):
        return False
    return any(len(token) > more_than for token in tokens())


def repeats_token(text: str, more_than: int, tokens: Callable[[], Sequence[str]]) -> bool:
    """Whether a normalised text holds the same token more than so many times in a row."""
    if (
        not _TOKEN_WITH_SPACE.search(text)
        and _PLAIN_WORDS.fullmatch(text)
        and not any(word == following.rstrip(",.!?") for word, following in pairwise(text.split()))
    ):
        return False
    longest = run = 1
    for token, following in pairwise(tokens()):
        run = run + 1 if token == following else 1
        longest = max(longest, run)
    return longest > more_than


@cache
def _tokenizer() -> Any:
    return nltk_module("nltk.tokenize.casual").TweetTokenizer()
