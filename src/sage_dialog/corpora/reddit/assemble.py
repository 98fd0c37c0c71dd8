"""From one bucket of threads to dialogues: the second of the two functions that every executor carries out.

Who answers whom is settled on whole columns; a rule looks at the text of the comments that are still in question when
its turn comes, and at each of them once.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sage_dialog.corpora.reddit.extract import KEYED_COMMENTS, KEYED_SUBMISSIONS
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
from sage_dialog.parameters import RedditRules
from sage_dialog.schemas import DIALOGUES, REJECTED_LINES
from sage_dialog.sentiment import compound

NOBODY = ("", "[deleted]", "[removed]", "[unknown]")
_NONE = -1


class Part(NamedTuple):
    """A batch of extracted comments or submissions, and the dump it comes from."""

    month: str
    file: str
    batch: pa.RecordBatch


class Assembled(NamedTuple):
    """What a bucket came to: tables of `schemas.DIALOGUES` and `schemas.REJECTED_LINES`, and what each rule took."""

    dialogues: pa.Table
    rejected: pa.Table
    removed: Counter[tuple[str, Rule]]


def assemble(comments: Sequence[Part], submissions: Sequence[Part], rules: RedditRules) -> Assembled:
    """The dialogues of a bucket (paper §3.1).

    Args:
        comments: batches of KEYED_COMMENTS, those of one month in the order of its dump.
        submissions: batches of KEYED_SUBMISSIONS, likewise.
        rules: the thresholds.

    Returns:
        Dialogues by id. A path counts for the month of its leaf; siblings share the beginning of their paths.
    """
    months = sorted({part.month for part in (*comments, *submissions)})
    together = [[month] for month in months] if rules.same_month else [months]
    results = [
        _assemble(
            [part for month in these for part in comments if part.month == month],
            [part for month in these for part in submissions if part.month == month],
            rules,
        )
        for these in together
    ]
    rows = sorted((row for found, _, _ in results for row in found), key=lambda row: row["dialogue_id"])
    rejected = [row for _, set_aside, _ in results for row in set_aside]
    removed: Counter[tuple[str, Rule]] = Counter()
    for _, _, counts in results:
        removed.update(counts)
    return Assembled(
        pa.Table.from_pylist(rows, schema=DIALOGUES), pa.Table.from_pylist(rejected, schema=REJECTED_LINES), removed
    )


def _assemble(
    comments: Sequence[Part], submissions: Sequence[Part], rules: RedditRules
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Counter[tuple[str, Rule]]]:
    threads = _Origins(submissions, KEYED_SUBMISSIONS)
    bucket = _Origins(comments, KEYED_COMMENTS)
    counted, parents = _counted(bucket, threads, rules)
    paths = _paths(bucket, counted, parents, rules)
    dialogues = _Dialogues(bucket, rules).of(paths)
    bucket.removed.update(threads.removed)
    return dialogues, threads.rejected + bucket.rejected, bucket.removed


class _Origins:
    """The rows of some parts as one table, where each comes from, and what rules took of them."""

    def __init__(self, parts: Sequence[Part], schema: pa.Schema) -> None:
        self.table = pa.Table.from_batches([part.batch for part in parts], schema=schema).combine_chunks()
        self._dumps = [(part.month, part.file) for part in parts]
        self._dump_of = np.repeat(np.arange(len(parts)), [len(part.batch) for part in parts])
        self.removed: Counter[tuple[str, Rule]] = Counter()
        self.rejected: list[dict[str, Any]] = []
        self._bodies: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> pa.Array:
        column = self.table[name]
        if column.num_chunks > 1:  # Arrow cannot put more than 2 GiB of text together
            raise ValueError("a bucket of threads holds more than 2 GiB of text; deal them into more buckets")
        return column.chunk(0) if column.num_chunks else pa.array([], column.type)

    def bodies(self, rows: np.ndarray) -> list[str]:
        new = [row for row in rows.tolist() if row not in self._bodies]
        if new:
            self._bodies.update(zip(new, self.column("body").take(pa.array(new)).to_pylist(), strict=True))
        return [self._bodies[row] for row in rows.tolist()]

    def body(self, row: int) -> str:
        return self._bodies[row]

    def month(self, row: int) -> str:
        return self._dumps[self._dump_of[row]][0]

    def remove(self, rule: Rule, rows: np.ndarray) -> None:
        for dump, count in zip(*np.unique(self._dump_of[rows], return_counts=True), strict=True):
            self.removed[self._dumps[dump][0], rule] += int(count)

    def reject(self, rule: Rule, rows: np.ndarray, kind: str) -> None:
        self.remove(rule, rows)
        where = pa.array(rows)
        names, lines = self.column("id").take(where).to_pylist(), self.column("line").take(where).to_pylist()
        for row, name, line in zip(rows, names, lines, strict=True):
            month, file = self._dumps[self._dump_of[row]]
            place = {"month": month, "file": file, "line": line}
            self.rejected.append(place | {"reason": rule.value, "excerpt": f"{kind}_{name}"})


def _counted(bucket: _Origins, threads: _Origins, rules: RedditRules) -> tuple[np.ndarray, np.ndarray]:
    """Which comments may stand in a path, and for each comment the row of the counted one it answers, or -1."""
    links = bucket.column("link_id").dictionary_encode()
    names = bucket.column("id").dictionary_encode()
    link_of = _numpy(links.indices).astype(np.int64)
    keys = link_of * len(names.dictionary) + _numpy(names.indices)
    counted = np.zeros(len(bucket), bool)
    counted[np.unique(keys, return_index=True)[1]] = True
    bucket.reject(Rule.DUPLICATE_COMMENT, np.flatnonzero(~counted), "t1")
    for rule, of_link in _thread_faults(links.dictionary, threads, rules):
        taken = counted & of_link[link_of]
        bucket.remove(rule, np.flatnonzero(taken))
        counted = counted & ~taken

    parents = np.full(len(bucket), _NONE, np.int64)
    answers = np.flatnonzero(counted & _numpy(pc.starts_with(bucket.column("parent_id"), "t1_")))
    above = pc.utf8_slice_codeunits(bucket.column("parent_id").take(pa.array(answers)), 3)
    codes = pc.fill_null(pc.index_in(above, value_set=names.dictionary), _NONE).to_numpy()
    answers, codes = answers[codes >= 0], codes[codes >= 0]
    rows = np.flatnonzero(counted)
    rows = rows[np.argsort(keys[rows])]
    wanted = link_of[answers] * len(names.dictionary) + codes
    places = np.minimum(np.searchsorted(keys[rows], wanted), len(rows) - 1)
    found = keys[rows[places]] == wanted
    parents[answers[found]] = rows[places[found]]
    return counted, parents


def _thread_faults(links: pa.Array, threads: _Origins, rules: RedditRules) -> Iterator[tuple[Rule, np.ndarray]]:
    """Each rule on threads with the links (as comments name them) it would take."""
    names = threads.column("id").dictionary_encode()
    first = _first_of_each(_numpy(names.indices))
    threads.reject(Rule.DUPLICATE_THREAD, np.flatnonzero(~first), "t3")
    # A line that is set aside as a duplicate is not also read as a thread.
    for month, rule in [key for key in threads.removed if key[1] is Rule.DUPLICATE_THREAD]:
        threads.removed[month, Rule.SUBMISSION] -= threads.removed[month, rule]
    stripped = pa.array([link.removeprefix("t3_") for link in links.to_pylist()], pa.string())
    which = pc.fill_null(pc.index_in(stripped, value_set=names.dictionary), _NONE).to_numpy()
    known = which >= 0
    rows = np.flatnonzero(first)[which[known]]
    if rules.min_submission_comments > 0:
        yield Rule.NO_SUBMISSION, ~known
    quiet = np.zeros(len(links), bool)
    quiet[known] = _numpy(threads.column("num_comments"))[rows] < rules.min_submission_comments
    yield Rule.QUIET_THREAD, quiet
    if rules.drop_over_18:
        over_18 = np.zeros(len(links), bool)
        over_18[known] = _numpy(pc.fill_null(threads.column("over_18"), False))[rows]
        yield Rule.OVER_18, over_18


def _first_of_each(codes: np.ndarray) -> np.ndarray:
    """Where each code stands first; codes are numbered as they come."""
    before = np.maximum.accumulate(np.concatenate([[_NONE], codes[:-1]])) if len(codes) else codes
    return codes > before


def _paths(bucket: _Origins, counted: np.ndarray, parents: np.ndarray, rules: RedditRules) -> np.ndarray:
    """The paths that reach `min_turns` with a leaf of a good score: rows of comments, the leaf first, -1 behind."""
    answered = np.zeros(len(bucket), bool)
    answered[parents[parents >= 0]] = True
    bucket.remove(Rule.NOT_A_LEAF, np.flatnonzero(counted & answered))
    leaves = np.flatnonzero(counted & ~answered)
    low = _numpy(bucket.column("score"))[leaves] < rules.min_leaf_score
    bucket.remove(Rule.LEAF_SCORE, leaves[low])

    # Climbed first without a look at lengths: most paths are too short as it is.
    paths = _climb(leaves[~low], parents, rules.max_turns)
    deep = _lengths(paths) >= rules.min_turns
    bucket.remove(Rule.FEW_TURNS, paths[~deep, 0])
    paths = paths[deep]
    # So many words take twice as many bytes at least, but for the last space.
    may_be_long = _numpy(pc.binary_length(bucket.column("body"))) > 2 * rules.max_comment_words
    too_long = _of_comments(paths, bucket, lambda body: len(body.split()) > rules.max_comment_words, may_be_long)
    long_leaf = too_long[:, 0].copy()
    too_long[:, 0] = False
    paths[np.logical_or.accumulate(too_long, axis=1)] = _NONE
    short = _lengths(paths) < rules.min_turns
    bucket.remove(Rule.FEW_TURNS, paths[short, 0])
    bucket.remove(Rule.LONG_LEAF, paths[~short & long_leaf, 0])
    return paths[~short & ~long_leaf]


def _climb(leaves: np.ndarray, parents: np.ndarray, max_turns: int) -> np.ndarray:
    paths = np.full((len(leaves), max_turns), _NONE, np.int64)
    paths[:, 0] = leaves
    going = np.arange(len(leaves))
    for turn in range(1, max_turns):
        above = parents[paths[going, turn - 1]]
        on = above >= 0
        going, above = going[on], above[on]
        new = ~(paths[going, :turn] == above[:, None]).any(axis=1)  # a damaged dump may close a circle
        going = going[new]
        if not len(going):
            break
        paths[going, turn] = above[new]
    return paths


def _lengths(paths: np.ndarray) -> np.ndarray:
    return (paths >= 0).sum(axis=1)


def _of_comments(
    paths: np.ndarray, bucket: _Origins, holds: Callable[[str], bool], may_hold: np.ndarray | None = None
) -> np.ndarray:
    """For which comments of the paths something holds of the body, asked of each comment once; not behind a path."""
    comments = np.unique(paths[paths >= 0])
    if may_hold is not None:
        comments = comments[may_hold[comments]]
    of_row = np.zeros(len(bucket) + 1, bool)  # the last one stands for what is behind a path
    of_row[comments] = [holds(body) for body in bucket.bodies(comments)]
    return of_row[paths]


class _Dialogues:
    """The rules on what a path says, the cheap ones first."""

    def __init__(self, bucket: _Origins, rules: RedditRules) -> None:
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
        few_words = words[paths].sum(axis=1) / _lengths(paths) <= rules.min_mean_words
        paths = self._without(paths, Rule.MEAN_WORDS, few_words)
        kept, faults = [], defaultdict(list)
        for path, length in zip(paths.tolist(), _lengths(paths).tolist(), strict=True):
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
        return np.asarray(_of_comments(paths, self._bucket, holds).any(axis=1))

    def _without(self, paths: np.ndarray, rule: Rule, gone: np.ndarray) -> np.ndarray:
        self._bucket.remove(rule, paths[gone, 0])
        return paths[~gone]

    def _crowded(self, paths: np.ndarray) -> np.ndarray:
        """Which paths are not of two known people who take turns."""
        people = self._bucket.column("author").dictionary_encode()
        unknown = pc.is_in(people.dictionary, pa.array(NOBODY)).to_numpy(zero_copy_only=False)
        codes = pc.fill_null(people.indices, _NONE).to_numpy()
        person_of = np.append(np.where(np.append(unknown, True)[codes], _NONE, codes), _NONE)
        people_of = person_of[paths]
        turns = np.arange(paths.shape[1])
        expected = np.where(turns % 2 == 0, people_of[:, :1], people_of[:, 1:2])
        other = (people_of != expected) | (people_of == _NONE)
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


def _numpy(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
