"""What the rules ask of one comment and of one path: the DialoGPT recipe and the paper's filters (paper §3.1)."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from sage_dialog.corpora.reddit.dumps import Comment
from sage_dialog.corpora.reddit.funnel import Rule
from sage_dialog.parameters import RedditRules
from sage_dialog.sentiment import compound

_DELETED = ("[deleted]", "[removed]")
_APOSTROPHES = str.maketrans({"\u2018": "'", "\u2019": "'"})
_SHORTHAND = {"b/c": "because", "j/k": "just kidding", "w/o": "without", "w/": "with "}
_SHORTHAND_PATTERN = re.compile(r"(?<![\w/])(?:b/c\b|j/k\b|w/o\b|w/)")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9()\[\]:,.!?' ]")
_BRACKET = re.compile(r"[\[\]()]")


@dataclass(frozen=True)
class Dialogue:
    """A path that every rule let through. `texts` are normalised, one an utterance, the first speaker first."""

    path: tuple[Comment, ...]
    texts: tuple[str, ...]
    mean_words: float
    min_sentiment: float


def comment_fault(comment: Comment, num_comments: Mapping[str, int], rules: RedditRules) -> Rule | None:
    """The rule that makes a comment part of no path, or None where it counts.

    `num_comments` holds the comments of every submission by its id, as the dumps state them.
    """
    if rules.min_submission_comments > 0:
        known = num_comments.get(comment.link_id.removeprefix("t3_"))
        if known is None:
            return Rule.NO_SUBMISSION
        if known < rules.min_submission_comments:
            return Rule.QUIET_THREAD
    if comment.body.strip() in _DELETED:
        return Rule.DELETED
    if ">" in comment.body or "&gt;" in comment.body:
        return Rule.QUOTE
    if len(comment.body.split()) < rules.min_body_words:
        return Rule.SHORT_BODY
    return None


def normalised(body: str) -> str:
    """A comment as one line of plain text: the recipe's character set, hashtags dropped, shorthand spelled out.

    The recipe stores NLTK's tokens joined by spaces. Here the tokens are counted but the words are kept as
    written ("sad." and not "sad ."), since what is kept is what models learn to say. Typographic apostrophes
    and HTML entities, which the recipe turns into spaces, are read as what they stand for.
    """
    words = [word for word in html.unescape(body).translate(_APOSTROPHES).split() if not word.startswith("#")]
    text = _SHORTHAND_PATTERN.sub(lambda found: _SHORTHAND[found.group()], " ".join(words).replace("\\", ""))
    return " ".join(_NOT_ALLOWED.sub(" ", text).split())


def has_link(body: str) -> bool:
    return any("http" in word.lower() for word in body.split() if not word.startswith("#"))


class PathRules:
    """Asks the rules of one path after another, the cheap ones first.

    Siblings share most of their path, so what is computed of a body is kept for the run.
    """

    def __init__(self, rules: RedditRules) -> None:
        self._rules = rules
        self._capitals = re.compile(rf"[A-Z]{{{rules.max_capitals_run + 1},}}")
        self._normalised = cache(normalised)
        self._tokens = cache(tweet_tokens)
        self._compound = cache(lambda text: compound()(text))

    def judge(self, path: tuple[Comment, ...]) -> Dialogue | Rule:
        """The dialogue of a path, or the first rule against it. The path's last comment is its leaf."""
        rules = self._rules
        if path[-1].score < rules.min_leaf_score:
            return Rule.LEAF_SCORE
        if too_long(path[-1], rules):
            return Rule.LONG_LEAF
        if len(path) < rules.min_turns:
            return Rule.FEW_TURNS
        if any(has_link(comment.body) for comment in path):
            return Rule.LINK
        texts = tuple(self._normalised(comment.body) for comment in path)
        if not all(texts):
            return Rule.EMPTY_UTTERANCE
        if any(_BRACKET.search(text) for text in texts):
            return Rule.BRACKET
        if any(self._capitals.search(text) for text in texts):
            return Rule.CAPITALS
        mean_words = sum(len(text.split()) for text in texts) / len(texts)
        if mean_words <= rules.min_mean_words:
            return Rule.MEAN_WORDS
        if rules.require_question and not any(text.endswith("?") for text in texts):
            return Rule.NO_QUESTION
        if fault := self._token_fault(texts):
            return fault
        lowest = 1.0
        for text in texts:
            lowest = min(lowest, self._compound(text))
            if lowest <= rules.min_sentiment:
                return Rule.SENTIMENT
        return Dialogue(path, texts, mean_words, lowest)

    def _token_fault(self, texts: tuple[str, ...]) -> Rule | None:
        rules = self._rules
        leaf = self._tokens(texts[-1])
        if sum(len(self._tokens(text)) for text in texts) > rules.max_path_tokens:
            return Rule.PATH_TOKENS
        if max(map(len, leaf)) > rules.max_token_chars:
            return Rule.LONG_TOKEN
        if _longest_run(leaf) > rules.max_token_run:
            return Rule.REPETITION
        return None


def tweet_tokens(text: str) -> tuple[str, ...]:
    """NLTK's TweetTokenizer, case kept."""
    return tuple(_tokenizer().tokenize(text))


@cache
def _tokenizer() -> Any:
    from nltk.tokenize import TweetTokenizer

    return TweetTokenizer()


def too_long(comment: Comment, rules: RedditRules) -> bool:
    return len(comment.body.split()) > rules.max_comment_words


def _longest_run(tokens: tuple[str, ...]) -> int:
    longest = run = 1
    for before, token in pairwise(tokens):
        run = run + 1 if token == before else 1
        longest = max(longest, run)
    return longest
