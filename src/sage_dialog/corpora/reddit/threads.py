"""Who answers whom in a bucket of threads, settled on whole columns: which comments count, and the paths they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit.columns import TextColumn
from sage_dialog.corpora.reddit.rules import Rule

NONE = -1  # in place of a row: no comment


class Part(NamedTuple):
    """A batch of extracted comments or submissions, and the dump it comes from."""

    month: str
    file: str
    batch: pa.RecordBatch


class Records:
    """The rows of some parts as one table, where each comes from, and what rules took of them."""

    def __init__(self, parts: Sequence[Part], schema: pa.Schema) -> None:
        self.table = pa.Table.from_batches([part.batch for part in parts], schema=schema).combine_chunks()
        self._dumps = [(part.month, part.file) for part in parts]
        self._dump_of = np.repeat(np.arange(len(parts)), [len(part.batch) for part in parts])
        self.removed: Counter[tuple[str, Rule]] = Counter()
        self.rejected: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> pa.Array:
        column = self.table[name]
        if column.num_chunks > 1:  # Arrow cannot put more than 2 GiB of text together
            raise ValueError("a bucket of threads holds more than 2 GiB of text; deal them into more buckets")
        return column.chunk(0) if column.num_chunks else pa.array([], column.type)

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


def counted_comments(bucket: Records, threads: Records, rules: RedditRules) -> tuple[np.ndarray, np.ndarray]:
    """Which comments may stand in a path, and for each comment the row of the counted one it answers, or -1."""
    links = bucket.column("link_id").dictionary_encode()
    names = bucket.column("id").dictionary_encode()
    link_of = _numpy(links.indices).astype(np.int64)
    keys = link_of * len(names.dictionary) + _numpy(names.indices)
    counted = np.zeros(len(bucket), bool)
    ids_are_unique = len(names.dictionary) == len(bucket)  # as they are, unless a dump says things twice
    counted[slice(None) if ids_are_unique else np.unique(keys, return_index=True)[1]] = True
    bucket.reject(Rule.DUPLICATE_COMMENT, np.flatnonzero(~counted), "t1")
    for rule, of_link in _thread_faults(links.dictionary, threads, rules):
        taken = counted & of_link[link_of]
        bucket.remove(rule, np.flatnonzero(taken))
        counted = counted & ~taken

    parents = np.full(len(bucket), NONE, np.int64)
    answers = np.flatnonzero(counted & _numpy(pc.starts_with(bucket.column("parent_id"), "t1_")))
    above = pc.utf8_slice_codeunits(bucket.column("parent_id").take(pa.array(answers)), 3)
    codes = pc.fill_null(pc.index_in(above, value_set=names.dictionary), NONE).to_numpy()
    answers, codes = answers[codes >= 0], codes[codes >= 0]
    if ids_are_unique:  # numbered as they come, so that the number is the row
        found = counted[codes] & (link_of[codes] == link_of[answers])
        parents[answers[found]] = codes[found]
    else:
        rows = np.flatnonzero(counted)
        rows = rows[np.argsort(keys[rows])]
        wanted = link_of[answers] * len(names.dictionary) + codes
        places = np.minimum(np.searchsorted(keys[rows], wanted), len(rows) - 1)
        found = keys[rows[places]] == wanted
        parents[answers[found]] = rows[places[found]]
    return counted, parents


def _thread_faults(links: pa.Array, threads: Records, rules: RedditRules) -> Iterator[tuple[Rule, np.ndarray]]:
    """Each rule on threads with the links (as comments name them) it would take."""
    names = threads.column("id").dictionary_encode()
    first = _first_of_each(_numpy(names.indices))
    threads.reject(Rule.DUPLICATE_THREAD, np.flatnonzero(~first), "t3")
    # A line that is set aside as a duplicate is not also read as a thread.
    for month, rule in [key for key in threads.removed if key[1] is Rule.DUPLICATE_THREAD]:
        threads.removed[month, Rule.SUBMISSION] -= threads.removed[month, rule]
    stripped = pa.array([link.removeprefix("t3_") for link in links.to_pylist()], pa.string())
    which = pc.fill_null(pc.index_in(stripped, value_set=names.dictionary), NONE).to_numpy()
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
    before = np.maximum.accumulate(np.concatenate([[NONE], codes[:-1]])) if len(codes) else codes
    return codes > before


def long_paths(bucket: Records, counted: np.ndarray, parents: np.ndarray, rules: RedditRules) -> np.ndarray:
    """The paths that reach `min_turns` with a leaf of a good score: rows of comments, the leaf first, -1 behind."""
    answered = np.zeros(len(bucket), bool)
    answered[parents[parents >= 0]] = True
    bucket.remove(Rule.NOT_A_LEAF, np.flatnonzero(counted & answered))
    leaves = np.flatnonzero(counted & ~answered)
    low = _numpy(bucket.column("score"))[leaves] < rules.min_leaf_score
    bucket.remove(Rule.LEAF_SCORE, leaves[low])

    # Most paths are too short as it is: without a look at comments' lengths, and before whole paths are written down.
    leaves = leaves[~low]
    deep = _stands_deep(leaves, parents, rules.min_turns)
    bucket.remove(Rule.FEW_TURNS, leaves[~deep])
    paths = _climb(leaves[deep], parents, rules.max_turns)
    # So many words take twice as many bytes at least, but for the last space.
    may_be_long = _numpy(pc.binary_length(bucket.column("body"))) > 2 * rules.max_comment_words
    too_long = of_comments(paths, bucket, partial(_with_more_words, rules.max_comment_words), may_be_long)
    long_leaf = too_long[:, 0].copy()
    too_long[:, 0] = False
    paths[np.logical_or.accumulate(too_long, axis=1)] = NONE
    short = lengths(paths) < rules.min_turns
    bucket.remove(Rule.FEW_TURNS, paths[short, 0])
    bucket.remove(Rule.LONG_LEAF, paths[~short & long_leaf, 0])
    return paths[~short & ~long_leaf]


def _stands_deep(leaves: np.ndarray, parents: np.ndarray, turns: int) -> np.ndarray:
    """For which leaves that many comments are found by climbing; in a circle, which a damaged dump may close, any."""
    deep, at = np.ones(len(leaves), bool), leaves
    for _ in range(1, turns):
        at = parents[at]
        deep[deep] = at >= 0
        at = at[at >= 0]
    return deep


def _with_more_words(limit: int, bodies: TextColumn) -> np.ndarray:
    return bodies.confirmed(bodies.gaps() >= limit, lambda body: len(body.split()) > limit)


def _climb(leaves: np.ndarray, parents: np.ndarray, max_turns: int) -> np.ndarray:
    paths = np.full((len(leaves), max_turns), NONE, np.int64)
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


def lengths(paths: np.ndarray) -> np.ndarray:
    return (paths >= 0).sum(axis=1)


def on_paths(paths: np.ndarray, rows: int) -> np.ndarray:
    """The comments on the paths, by row."""
    is_on = np.zeros(rows + 1, bool)
    is_on[paths] = True
    return np.flatnonzero(is_on[:-1])


def of_comments(
    paths: np.ndarray,
    bucket: Records,
    which: Callable[[TextColumn], np.ndarray],
    may_be: np.ndarray | None = None,
) -> np.ndarray:
    """Which comments of the paths are among those that `which` finds by their bodies; nothing behind a path is."""
    comments = on_paths(paths, len(bucket))
    if may_be is not None:
        comments = comments[may_be[comments]]
    of_row = np.zeros(len(bucket) + 1, bool)  # the last one stands for what is behind a path
    of_row[comments] = which(TextColumn(bucket.column("body").take(pa.array(comments))))
    return of_row[paths]


def _numpy(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
