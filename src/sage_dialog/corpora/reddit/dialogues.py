"""The rules on the text of paths; each reads only the comments of the paths that the rules before it left."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sage_dialog.config import RedditRules
from sage_dialog.core.sentiment import compound
from sage_dialog.corpora.reddit.columns import TextColumn
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.corpora.reddit.text import (
    find_brackets,
    find_links,
    find_questions,
    has_common_words,
    has_long_token,
    max_tokens,
    normalise,
    repeats_token,
    tweet_tokens,
)
from sage_dialog.corpora.reddit.threads import NONE, Records, find_in_paths, lengths, rows_of

UNKNOWN_AUTHORS = ("", "[deleted]", "[removed]", "[unknown]")


class DialogueFilter:
    """Applies the rules on the text of paths, the cheap ones first."""

    def __init__(self, bucket: Records, rules: RedditRules) -> None:
        self._bucket = bucket
        self._rules = rules
        words = "|".join(re.escape(word) for word in rules.blocked_words)
        self._blocked = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
        # Caches by row. They must not refer to this object, which would keep a bucket's memory alive.
        plain, score = dict[int, str](), compound()
        self._plain = plain
        tokens = cache(lambda row: tweet_tokens(plain[row]))
        text = cache(lambda row: " ".join(tokens(row))) if rules.tokenised else plain.__getitem__
        self._tokens, self._text = tokens, text
        self._compound = cache(lambda row: score(text(row)))
        self._low_sentiment: set[int] = set()

    def apply(self, paths: np.ndarray) -> list[dict[str, Any]]:
        """Return rows of `schemas.DIALOGUES` for the paths that no rule removes."""
        rules = self._rules
        if rules.two_authors:
            paths = self._remove(paths, Rule.MORE_THAN_TWO_AUTHORS, self._not_two_authors(paths))
        if rules.require_question:
            paths = self._remove(paths, Rule.NO_QUESTION, ~self._any(paths, find_questions))
        paths = self._remove(paths, Rule.LINK, self._any(paths, find_links))
        paths = self._remove(paths, Rule.BRACKET, self._any(paths, find_brackets))
        words, capitals = self._normalise(paths)
        paths = self._remove(paths, Rule.EMPTY_UTTERANCE, ((words[paths] == 0) & (paths >= 0)).any(axis=1))
        paths = self._remove(paths, Rule.CAPITALS, capitals[paths].any(axis=1))
        few_words = words[paths].sum(axis=1) / lengths(paths) <= rules.min_mean_words
        paths = self._remove(paths, Rule.MEAN_WORDS, few_words)
        kept, removed = [], defaultdict(list)
        for path, length in zip(paths.tolist(), lengths(paths).tolist(), strict=True):
            rows = path[:length][::-1]
            if rule := self._rule(rows):
                removed[rule].append(rows[-1])
            else:
                kept.append(rows)
        if rules.disjoint:
            kept = self._disjoint(kept, removed[Rule.SHARES_UTTERANCE])
        for rule, leaves in removed.items():
            self._bucket.remove(rule, np.array(leaves, np.int64))
        return [self._row(rows) for rows in kept]

    def _any(self, paths: np.ndarray, search: Callable[[TextColumn], np.ndarray]) -> np.ndarray:
        return np.asarray(find_in_paths(paths, self._bucket, search).any(axis=1))

    def _remove(self, paths: np.ndarray, rule: Rule, matching: np.ndarray) -> np.ndarray:
        self._bucket.remove(rule, paths[matching, 0])
        return paths[~matching]

    def _normalise(self, paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return word counts and masks of capital runs by row, 0 for the padding, of the paths' normalised texts."""
        comments = rows_of(paths, len(self._bucket))
        bodies = self._bucket.column("body").take(pa.array(comments)).to_pylist()
        self._plain.update(zip(comments.tolist(), map(normalise, bodies), strict=True))
        texts = pa.array(map(self._text, comments.tolist()), pa.string())
        words, capitals = np.zeros((2, len(self._bucket) + 1), np.int64)
        words[comments] = pc.count_substring(texts, " ").to_numpy() + (pc.binary_length(texts).to_numpy() > 0)
        capitals[comments] = TextColumn(texts).matching(f"[A-Z]{{{self._rules.max_capitals_run + 1}}}")
        return words, capitals

    def _not_two_authors(self, paths: np.ndarray) -> np.ndarray:
        """Return a mask of the paths in which not two known authors take turns."""
        people = self._bucket.column("author").dictionary_encode()
        unknown = pc.is_in(people.dictionary, pa.array(UNKNOWN_AUTHORS)).to_numpy(zero_copy_only=False)
        codes = pc.fill_null(people.indices, NONE).to_numpy()
        person_of = np.append(np.where(np.append(unknown, True)[codes], NONE, codes), NONE)
        people_of = person_of[paths]
        turns = np.arange(paths.shape[1])
        expected = np.where(turns % 2 == 0, people_of[:, :1], people_of[:, 1:2])
        other = (people_of != expected) | (people_of == NONE)
        return (other & (paths >= 0)).any(axis=1) | (people_of[:, 0] == people_of[:, 1])

    def _rule(self, rows: list[int]) -> Rule | None:
        """Return the first rule that removes a path."""
        rules = self._rules
        leaf = self._plain[rows[-1]]
        if rules.blocked_words and any(self._blocked.search(self._text(row)) for row in rows):
            return Rule.BLOCKED_WORD
        if not has_common_words(self._text(rows[-1]), rules.min_common_words):
            return Rule.LANGUAGE
        if not self._low_sentiment.isdisjoint(rows):  # siblings share most of their path
            return Rule.SENTIMENT
        for row in sorted(rows, key=lambda row: len(self._plain[row])):  # short texts are scored fast, and rarely high
            if self._compound(row) <= rules.min_sentiment:
                self._low_sentiment.add(row)
                return Rule.SENTIMENT
        if sum(max_tokens(self._plain[row]) for row in rows) > rules.max_path_tokens and (
            sum(len(self._tokens(row)) for row in rows) > rules.max_path_tokens
        ):
            return Rule.PATH_TOKENS
        if has_long_token(leaf, rules.max_token_chars, partial(self._tokens, rows[-1])):
            return Rule.LONG_TOKEN
        if repeats_token(leaf, rules.max_token_run, partial(self._tokens, rows[-1])):
            return Rule.REPETITION
        return None

    def _disjoint(self, paths: list[list[int]], sharing: list[int]) -> list[list[int]]:
        names = self._bucket.column("id")
        taken: set[int] = set()
        kept = []
        for rows in sorted(paths, key=lambda rows: (-len(rows), names[rows[-1]].as_py())):
            if taken.isdisjoint(rows):
                taken.update(rows)
                kept.append(rows)
            else:
                sharing.append(rows[-1])
        return kept

    def _row(self, rows: list[int]) -> dict[str, Any]:
        leaf = rows[-1]
        path = self._bucket.table.take(pa.array(rows)).to_pylist()
        texts = [self._text(row) for row in rows]
        thread = path[-1]["link_id"]
        return {
            "dialogue_id": f"{thread.removeprefix('t3_')}/{path[-1]['id']}",
            "subreddit": path[-1]["subreddit"],
            "link_id": thread,
            "month": self._bucket.month(leaf),
            "turns": [
                {"comment_id": comment["id"], "author": hash_author(comment["author"]), "text": text}
                for comment, text in zip(path, texts, strict=True)
            ],
            "n_turns": len(rows),
            "mean_words": sum(len(text.split()) for text in texts) / len(texts),
            "min_sentiment": min(map(self._compound, rows)),
        }


def hash_author(name: str | None) -> str | None:
    """Return a pseudonym of an author; None if the dump names none."""
    if name is None or name in UNKNOWN_AUTHORS:
        return None
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
