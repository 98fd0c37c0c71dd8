"""The reply structure of a bucket of threads, on whole columns: eligible comments, their parents, and their paths."""

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
from sage_dialog.corpora.reddit.tally import MAX_KEPT_REJECTS

NONE = -1  # in place of a row number: no comment


class Part(NamedTuple):
    """A batch of extracted comments or submissions, and its dump."""

    month: str
    file: str
    batch: pa.RecordBatch


class Records:
    """The rows of some parts as one table, with the dump of each row, and counts of removals."""

    def __init__(self, parts: Sequence[Part], schema: pa.Schema) -> None:
        self.table = pa.Table.from_batches([part.batch for part in parts], schema=schema).combine_chunks()
        self._dumps = [(part.month, part.file) for part in parts]
        self._dump_of = np.repeat(np.arange(len(parts)), [len(part.batch) for part in parts])
        self.removed: Counter[tuple[str, str]] = Counter()
        self.rejected: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> pa.Array:
        column = self.table[name]
        if column.num_chunks > 1:  # an Arrow array holds at most 2 GiB of text
            raise ValueError("a bucket of threads holds more than 2 GiB of text; lower data_processing.bucket_comments")
        return column.chunk(0) if column.num_chunks else pa.array([], column.type)

    def month(self, row: int) -> str:
        return self._dumps[self._dump_of[row]][0]

    def remove(self, rule: Rule, rows: np.ndarray) -> None:
        counts = np.bincount(self._dump_of[rows], minlength=len(self._dumps))
        for dump in np.flatnonzero(counts):
            self.removed[self._dumps[dump][0], rule] += int(counts[dump])

    def reject(self, rule: Rule, rows: np.ndarray, kind: str) -> None:
        self.remove(rule, rows)
        kept: Counter[str] = Counter()
        rows = rows[np.argsort(_numpy(self.column("line"))[rows], kind="stable")]  # the first of each dump are kept
        where = pa.array(rows)
        names, lines = self.column("id").take(where).to_pylist(), self.column("line").take(where).to_pylist()
        for row, name, line in zip(rows, names, lines, strict=True):
            month, file = self._dumps[self._dump_of[row]]
            kept[file] += 1
            if kept[file] > MAX_KEPT_REJECTS:
                continue
            place = {"month": month, "file": file, "line": line}
            self.rejected.append(place | {"reason": rule.value, "excerpt": f"{kind}_{name}"})


def link_comments(bucket: Records, threads: Records, rules: RedditRules) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of the comments that paths may contain, and the row of each comment's eligible parent, or -1."""
    links = bucket.column("link_id").dictionary_encode()
    names = bucket.column("id").dictionary_encode()
    link_of = _numpy(links.indices).astype(np.int64)
    keys = link_of * len(names.dictionary) + _numpy(names.indices)
    eligible = np.zeros(len(bucket), bool)
    ids_are_unique = len(names.dictionary) == len(bucket)  # as in every dump without duplicates
    eligible[slice(None) if ids_are_unique else np.unique(keys, return_index=True)[1]] = True
    bucket.reject(Rule.DUPLICATE_COMMENT, np.flatnonzero(~eligible), "t1")
    for rule, matching_links in _thread_rules(links.dictionary, threads, rules):
        matching = eligible & matching_links[link_of]
        bucket.remove(rule, np.flatnonzero(matching))
        eligible = eligible & ~matching

    parents = np.full(len(bucket), NONE, np.int64)
    replies = np.flatnonzero(eligible & _numpy(pc.starts_with(bucket.column("parent_id"), "t1_")))
    above = pc.utf8_slice_codeunits(bucket.column("parent_id").take(pa.array(replies)), 3)
    codes = pc.fill_null(pc.index_in(above, value_set=names.dictionary), NONE).to_numpy()
    replies, codes = replies[codes >= 0], codes[codes >= 0]
    if ids_are_unique:  # codes count up with rows, so that a code is a row
        found = eligible[codes] & (link_of[codes] == link_of[replies])
        parents[replies[found]] = codes[found]
    else:
        rows = np.flatnonzero(eligible)
        rows = rows[np.argsort(keys[rows])]
        wanted = link_of[replies] * len(names.dictionary) + codes
        places = np.minimum(np.searchsorted(keys[rows], wanted), len(rows) - 1)
        found = keys[rows[places]] == wanted
        parents[replies[found]] = rows[places[found]]
    return eligible, parents


def _thread_rules(links: pa.Array, threads: Records, rules: RedditRules) -> Iterator[tuple[Rule, np.ndarray]]:
    """Yield each rule on threads with a mask of the links (as comments name them) it applies to."""
    names = threads.column("id").dictionary_encode()
    first = _first_of_each(_numpy(names.indices))
    threads.reject(Rule.DUPLICATE_THREAD, np.flatnonzero(~first), "t3")
    # A line rejected as a duplicate does not count as a submission.
    for month, rule in [key for key in threads.removed if key[1] is Rule.DUPLICATE_THREAD]:
        threads.removed[month, Rule.SUBMISSION] -= threads.removed[month, rule]
    stripped = pc.if_else(pc.starts_with(links, "t3_"), pc.utf8_slice_codeunits(links, 3), links)
    which = pc.fill_null(pc.index_in(stripped, value_set=names.dictionary), NONE).to_numpy()
    known = which >= 0
    rows = np.flatnonzero(first)[which[known]]
    if rules.min_submission_comments > 0:
        yield Rule.NO_SUBMISSION, ~known
    few_comments = np.zeros(len(links), bool)
    few_comments[known] = _numpy(threads.column("num_comments"))[rows] < rules.min_submission_comments
    yield Rule.QUIET_THREAD, few_comments
    if rules.drop_over_18:
        over_18 = np.zeros(len(links), bool)
        over_18[known] = _numpy(pc.fill_null(threads.column("over_18"), False))[rows]
        yield Rule.OVER_18, over_18


def _first_of_each(codes: np.ndarray) -> np.ndarray:
    """Return a mask of the first occurrence of each code; codes count up in order of occurrence."""
    before = np.maximum.accumulate(np.concatenate([[NONE], codes[:-1]])) if len(codes) else codes
    return codes > before


def find_paths(bucket: Records, eligible: np.ndarray, parents: np.ndarray, rules: RedditRules) -> np.ndarray:
    """Return the paths of at least `min_turns` with a good leaf score: rows of comments, leaf first, padded with -1."""
    has_reply = np.zeros(len(bucket), bool)
    has_reply[parents[parents >= 0]] = True
    bucket.remove(Rule.NOT_A_LEAF, np.flatnonzero(eligible & has_reply))
    leaves = np.flatnonzero(eligible & ~has_reply)
    low = _numpy(bucket.column("score"))[leaves] < rules.min_leaf_score
    bucket.remove(Rule.LEAF_SCORE, leaves[low])

    # Most paths are too short whatever the length of their comments; they are removed before paths are built.
    leaves = leaves[~low]
    deep = _are_deep(leaves, parents, rules.min_turns)
    bucket.remove(Rule.FEW_TURNS, leaves[~deep])
    paths = _climb(leaves[deep], parents, rules.max_turns)
    # n words take at least 2n - 1 bytes.
    may_be_long = _numpy(pc.binary_length(bucket.column("body"))) > 2 * rules.max_comment_words
    too_long = find_in_paths(paths, bucket, partial(_are_long, rules.max_comment_words), may_be_long)
    long_leaf = too_long[:, 0].copy()
    too_long[:, 0] = False
    paths[np.logical_or.accumulate(too_long, axis=1)] = NONE
    short = lengths(paths) < rules.min_turns
    bucket.remove(Rule.FEW_TURNS, paths[short, 0])
    bucket.remove(Rule.LONG_LEAF, paths[~short & long_leaf, 0])
    return paths[~short & ~long_leaf]


def _are_deep(leaves: np.ndarray, parents: np.ndarray, turns: int) -> np.ndarray:
    """Return a mask of leaves with at least `turns` - 1 ancestors; a cycle, as in damaged dumps, counts as endless."""
    deep, at = np.ones(len(leaves), bool), leaves
    for _ in range(1, turns):
        at = parents[at]
        deep[deep] = at >= 0
        at = at[at >= 0]
    return deep


def _are_long(limit: int, bodies: TextColumn) -> np.ndarray:
    at_least, at_most = bodies.word_bounds()
    long, unsure = at_least > limit, (at_least <= limit) & (at_most > limit)
    return long | bodies.where(lambda body: len(body.split()) > limit, unsure)


def _climb(leaves: np.ndarray, parents: np.ndarray, max_turns: int) -> np.ndarray:
    paths = np.full((len(leaves), max_turns), NONE, np.int64)
    paths[:, 0] = leaves
    going = np.arange(len(leaves))
    for turn in range(1, max_turns):
        above = parents[paths[going, turn - 1]]
        on = above >= 0
        going, above = going[on], above[on]
        new = ~(paths[going, :turn] == above[:, None]).any(axis=1)  # a damaged dump may have a cycle
        going = going[new]
        if not len(going):
            break
        paths[going, turn] = above[new]
    return paths


def lengths(paths: np.ndarray) -> np.ndarray:
    return (paths >= 0).sum(axis=1)


def rows_of(paths: np.ndarray, rows: int) -> np.ndarray:
    """Return the rows of the comments of the paths."""
    is_on = np.zeros(rows + 1, bool)
    is_on[paths] = True
    return np.flatnonzero(is_on[:-1])


def find_in_paths(
    paths: np.ndarray,
    bucket: Records,
    search: Callable[[TextColumn], np.ndarray],
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Return a mask of the path positions whose comments `search` finds by their bodies.

    Args:
        paths: rows of comments, padded with -1.
        bucket: the comments.
        search: from bodies to a mask.
        candidates: a mask of the rows to search; None searches all.
    """
    comments = rows_of(paths, len(bucket))
    if candidates is not None:
        comments = comments[candidates[comments]]
    found = np.zeros(len(bucket) + 1, bool)  # the last one is the padding
    found[comments] = search(TextColumn(bucket.column("body").take(pa.array(comments))))
    return found[paths]


def _numpy(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
