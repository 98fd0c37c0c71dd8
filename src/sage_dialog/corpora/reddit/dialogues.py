"""The rules on what a path says: each looks at the comments that are still in question when its turn comes, once."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.corpora.reddit.text import (
    has_bracket,
    has_link,
    has_long_token,
    holds_common_words,
    may_ask,
    normalised,
    repeats_token,
    tokens_at_most,
    tweet_tokens,
)
from sage_dialog.corpora.reddit.threads import NONE, Records, lengths, of_comments
from sage_dialog.parameters import RedditRules
from sage_dialog.sentiment import compound

NOBODY = ("", "[deleted]", "[removed]", "[unknown]")


class Dialogues:
    """The rules on what a path says, the cheap ones first."""

    def __init__(self, bucket: Records, rules: RedditRules) -> None:
        self._bucket = bucket
        self._rules = rules
        self._capitals = re.compile(rf"[A-Z]{{{rules.max_capitals_run + 1},}}")
        words = "|".join(re.escape(word) for word in rules.blocked_words)
        self._blocked = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
        # What is remembered of a text must not hold on to this object, or a bucket's memory would outlive it.
        normal, score = cache(normalised), compound()
        plain = cache(lambda row: normal(bucket.body(row)))
        tokens = cache(lambda row: tweet_tokens(plain(row)))
        text = cache(lambda row: " ".join(tokens(row))) if rules.tokenised else plain
        self._asks = lambda body: may_ask(body) and normal(body).endswith("?")
        self._plain, self._tokens, self._text = plain, tokens, text
        self._compound = cache(lambda row: score(text(row)))
        self._unhappy: set[int] = set()

    def of(self, paths: np.ndarray) -> list[dict[str, Any]]:
        """Rows of `schemas.DIALOGUES` for the paths that no rule takes."""
        rules = self._rules
        paths = self._without(paths, Rule.LINK, self._any(paths, has_link))
        if rules.two_authors:
            paths = self._without(paths, Rule.MORE_THAN_TWO_AUTHORS, self._crowded(paths))
        paths = self._without(paths, Rule.BRACKET, self._any(paths, has_bracket))
        if rules.require_question:
            paths = self._without(paths, Rule.NO_QUESTION, ~self._any(paths, self._asks))
        words = self._of_rows(paths, lambda row: _words(self._text(row)))
        paths = self._without(paths, Rule.EMPTY_UTTERANCE, ((words[paths] == 0) & (paths >= 0)).any(axis=1))
        shouts = self._of_rows(paths, lambda row: self._capitals.search(self._text(row)) is not None)
        paths = self._without(paths, Rule.CAPITALS, shouts[paths].any(axis=1))
        few_words = words[paths].sum(axis=1) / lengths(paths) <= rules.min_mean_words
        paths = self._without(paths, Rule.MEAN_WORDS, few_words)
        kept, faults = [], defaultdict(list)
        for path, length in zip(paths.tolist(), lengths(paths).tolist(), strict=True):
            rows = path[:length][::-1]
            if fault := self._fault(rows):
                faults[fault].append(rows[-1])
            else:
                kept.append(rows)
        if rules.disjoint:
            kept = self._disjoint(kept, faults[Rule.SHARES_UTTERANCE])
        for fault, leaves in faults.items():
            self._bucket.remove(fault, np.array(leaves, np.int64))
        return [self._row(rows) for rows in kept]

    def _of_rows(self, paths: np.ndarray, number: Callable[[int], int]) -> np.ndarray:
        """A number for each comment of the paths, by its row; 0 for all others and, in the last place, for none."""
        of_row = np.zeros(len(self._bucket) + 1, np.int64)
        rows = np.unique(paths[paths >= 0])
        of_row[rows] = [number(row) for row in rows.tolist()]
        return of_row

    def _any(self, paths: np.ndarray, holds: Callable[[str], bool]) -> np.ndarray:
        return np.asarray(of_comments(paths, self._bucket, holds).any(axis=1))

    def _without(self, paths: np.ndarray, rule: Rule, gone: np.ndarray) -> np.ndarray:
        self._bucket.remove(rule, paths[gone, 0])
        return paths[~gone]

    def _crowded(self, paths: np.ndarray) -> np.ndarray:
        """Which paths are not of two known people who take turns."""
        people = self._bucket.column("author").dictionary_encode()
        unknown = pc.is_in(people.dictionary, pa.array(NOBODY)).to_numpy(zero_copy_only=False)
        codes = pc.fill_null(people.indices, NONE).to_numpy()
        person_of = np.append(np.where(np.append(unknown, True)[codes], NONE, codes), NONE)
        people_of = person_of[paths]
        turns = np.arange(paths.shape[1])
        expected = np.where(turns % 2 == 0, people_of[:, :1], people_of[:, 1:2])
        other = (people_of != expected) | (people_of == NONE)
        return (other & (paths >= 0)).any(axis=1) | (people_of[:, 0] == people_of[:, 1])

    def _fault(self, rows: list[int]) -> Rule | None:
        rules = self._rules
        leaf = self._plain(rows[-1])
        if rules.blocked_words and any(self._blocked.search(self._text(row)) for row in rows):
            return Rule.BLOCKED_WORD
        if not holds_common_words(self._text(rows[-1]), rules.min_common_words):
            return Rule.LANGUAGE
        if sum(tokens_at_most(self._plain(row)) for row in rows) > rules.max_path_tokens and (
            sum(len(self._tokens(row)) for row in rows) > rules.max_path_tokens
        ):
            return Rule.PATH_TOKENS
        if has_long_token(leaf, rules.max_token_chars, partial(self._tokens, rows[-1])):
            return Rule.LONG_TOKEN
        if repeats_token(leaf, rules.max_token_run, partial(self._tokens, rows[-1])):
            return Rule.REPETITION
        if not self._unhappy.isdisjoint(rows):  # siblings share most of their path
            return Rule.SENTIMENT
        for row in rows:
            if self._compound(row) <= rules.min_sentiment:
                self._unhappy.add(row)
                return Rule.SENTIMENT
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
                {"comment_id": comment["id"], "author": hashed_author(comment["author"]), "text": text}
                for comment, text in zip(path, texts, strict=True)
            ],
            "n_turns": len(rows),
            "mean_words": _mean_words(texts),
            "min_sentiment": min(map(self._compound, rows)),
        }


def hashed_author(name: str | None) -> str | None:
    """Who wrote a comment, as a name that tells people apart and no more; None where the dump does not say."""
    if name is None or name in NOBODY:
        return None
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _mean_words(texts: Sequence[str]) -> float:
    return sum(map(_words, texts)) / len(texts)


def _words(text: str) -> int:
    return text.count(" ") + 1 if text else 0
