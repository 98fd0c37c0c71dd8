"""Normalisation of comments to one line of plain text, and the properties of texts that rules need.

Rules on NLTK's tokens first run a cheap check that decides most texts; only the others are tokenised. Tests compare
both ways.
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

# About the fifty most frequent English words (DialoGPT's paper, §2, requires one of them in a response).
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
# Words of letters with at most one apostrophe inside and one mark at the end: TweetTokenizer splits these into word and
# mark in any context, and short words of digits as well.
_PLAIN_WORDS = re.compile(r"(?:(?:[A-Za-z]+(?:'[A-Za-z]+)?(?:[,!?]|\.+)?|[0-9]{1,6}[,!?]?)(?: |$))*")


def normalise(body: str) -> str:
    """Return a comment as one line of plain text: the recipe's character set, no hashtags, shorthand spelled out.

    Words are kept as written ("sad." and not the recipe's "sad .", which `tokenised` gives), since models learn to
    write them so. Differences from the recipe are in docs/reddit.md.
    """
    if body.isascii() and not ("&" in body or "#" in body or "/" in body):
        return b" ".join(body.encode().translate(_ASCII_ALLOWED, b"\\").split()).decode()
    body = html.unescape(body)
    words = body.translate(_APOSTROPHES).replace("\\", "").split()
    text = " ".join(word for word in words if not word.startswith("#"))
    text = _SHORTHAND_PATTERN.sub(lambda found: _SHORTHAND[found.group()], text)
    return " ".join(_NOT_ALLOWED.sub(" ", text).split())


def find_links(bodies: TextColumn) -> np.ndarray:
    """Return a mask of the bodies with a link outside of a hashtag."""
    return bodies.where(_has_link, bodies.matching(r"(?i)h\\*t\\*t\\*p"))


def _has_link(body: str) -> bool:
    words = body.replace("\\", "").split()
    return any("http" in word.lower() for word in words if not word.startswith("#"))


def find_brackets(bodies: TextColumn) -> np.ndarray:
    """Return a mask of the bodies with a bracket in their normalised text."""
    unsure = bodies.rows_with(b"&") | bodies.rows_with(b"#")  # entities may become brackets, hashtags are dropped
    has_bracket = bodies.where(lambda body: _BRACKET.search(normalise(body)) is not None, unsure)
    return bodies.matching(r"[()\[\]]") & ~unsure | has_bracket


def find_questions(bodies: TextColumn) -> np.ndarray:
    """Return a mask of the bodies whose normalised text ends with a question mark."""
    encoded = bodies.rows_with(b"&") | bodies.rows_with(b"#")
    last = bodies.last_bytes()
    asks = (last == ord("?")) & ~encoded
    # The normalised text may end earlier: before a dropped character or a hashtag, or with a decoded entity.
    unsure = ~(asks | np.isin(last, _STAY_LAST)) | encoded
    return asks | bodies.where(lambda body: ("?" in body or "&" in body) and normalise(body).endswith("?"), unsure)


def has_common_words(text: str, wanted: int) -> bool:
    """Return whether a normalised text has that many common English words; a repeated one counts each time."""
    common = (word for word in text.lower().split() if word.strip(":,.!?'") in COMMON_WORDS)
    return sum(1 for _ in islice(common, wanted)) == wanted


def tweet_tokens(text: str) -> tuple[str, ...]:
    """Return the tokens of NLTK's TweetTokenizer, case kept.

    Tokens with spaces (". . .", telephone numbers) are split there, as the recipe does when it joins tokens by spaces.
    """
    return tuple(" ".join(_tokenizer().tokenize(text)).split())


def max_tokens(text: str) -> int:
    """Return an upper bound of the number of tokens of a normalised text.

    A token ends within a run of letters only if it began before the run, so every token begins with a run of letters
    or another character of its own.
    """
    others = len(text.encode().translate(None, _LETTERS_AND_SPACE))
    return text.count(" ") + 1 + 2 * others


def has_long_token(text: str, more_than: int, tokens: Callable[[], Sequence[str]]) -> bool:
    """Return whether a normalised text has a token of more than so many characters; `tokens` is called if needed."""
    return max(map(len, text.split()), default=0) > more_than and any(len(token) > more_than for token in tokens())


def repeats_token(text: str, more_than: int, tokens: Callable[[], Sequence[str]]) -> bool:
    """Return whether a normalised text repeats a token more than so many times in a row."""
    if _PLAIN_WORDS.fullmatch(text) and not any(
        word == following.rstrip(",.!?") for word, following in pairwise(text.split())
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
