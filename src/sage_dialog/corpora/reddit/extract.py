"""From one dump to batches keyed by thread: the first of the two functions that every executor carries out.

A thread's comments and its submission fall into the same bucket whatever month they stand in, so that a bucket can
be assembled by itself and chains across month boundaries stay whole. Comments that no path can hold stay behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit.columns import TextColumn
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.reading import COMMENTS, LINE, SUBMISSIONS, Tally, read_records
from sage_dialog.corpora.reddit.rules import Rule

KEYED_COMMENTS = COMMENTS.append(LINE)
KEYED_SUBMISSIONS = SUBMISSIONS.append(LINE)
_DELETED = ("[deleted]", "[removed]")
# Records are dealt out when they are so many, or take so much memory; into thousands of buckets, when there is this
# much for each.
_HELD_ROWS, _HELD_BYTES, _BATCH_BYTES = 1 << 14, 1 << 22, 1 << 13


class Keyed(NamedTuple):
    """Comments (KEYED_COMMENTS) or submissions (KEYED_SUBMISSIONS) of one bucket, in the order of the dump."""

    bucket: int
    batch: pa.RecordBatch


def extract(
    dump: Dump, rules: RedditRules, buckets: int, tally: Tally, progress: Callable[[int, int], None] | None = None
) -> Iterator[Keyed]:
    """The comments of a dump that pass the rules on single comments, or its submissions.

    Args:
        dump: one month's comments or submissions.
        rules: the thresholds.
        buckets: into how many buckets threads are dealt.
        tally: told of every line that goes no further, and why.
        progress: told the compressed bytes and the lines read since it was last told.

    Yields:
        Round by round, one batch for every bucket that has something, by bucket.
    """
    told = 0

    def tell(read: int) -> None:
        nonlocal told
        if progress is not None:
            progress(read, tally.lines - told)
            told = tally.lines

    held = _Held(buckets)
    for records in read_records(dump, tally, tell):
        if dump.kind == "RC":
            held.add(records, _without(_faults(records, rules), len(records), tally))
        else:
            tally.removed[Rule.SUBMISSION] += len(records)
            held.add(records, np.ones(len(records), bool))
        if held.is_full():
            yield from held.dealt()
    tell(0)
    yield from held.dealt()


def _faults(comments: pa.Table, rules: RedditRules) -> Iterator[tuple[Rule, np.ndarray]]:
    """Each rule on single comments with the rows it would take."""
    body = _array(comments["body"])
    if rules.blocked_subreddits:
        blocked = {name.casefold() for name in rules.blocked_subreddits}
        names = _array(comments["subreddit"]).dictionary_encode()
        is_blocked = np.array([name.casefold() in blocked for name in names.dictionary.to_pylist()], bool)
        yield Rule.BLOCKED_SUBREDDIT, is_blocked[names.indices.to_numpy()]
    text = TextColumn(body)
    yield Rule.DELETED, text.confirmed(text.rows_with(b"ed]", 2), lambda said: said.strip() in _DELETED)
    yield Rule.QUOTE, text.rows_with(b">") | text.rows_with(b"&gt;")
    few = rules.min_body_words
    yield Rule.SHORT_BODY, text.confirmed(~text.two_words() if few <= 2 else None, lambda said: _is_short(said, few))


def _is_short(text: str, min_words: int) -> bool:
    return len(text.split(None, min_words)) < min_words


def _without(faults: Iterator[tuple[Rule, np.ndarray]], rows: int, tally: Tally) -> np.ndarray:
    """Which rows no rule takes."""
    kept = np.ones(rows, bool)
    for rule, taken in faults:
        tally.removed[rule] += int((kept & taken).sum())
        kept &= ~taken
    return kept


class _Held:
    """Records that are still to be dealt out, with those of their rows that are kept."""

    def __init__(self, buckets: int) -> None:
        self._buckets = buckets
        self._clear()

    def _clear(self) -> None:
        self._tables: list[pa.Table] = []
        self._kept: list[np.ndarray] = []

    def add(self, records: pa.Table, kept: np.ndarray) -> None:
        self._tables.append(records)
        self._kept.append(kept)

    def is_full(self) -> bool:
        held, rows = sum(table.nbytes for table in self._tables), sum(map(len, self._tables))
        return rows > _HELD_ROWS or held > max(_HELD_BYTES, _BATCH_BYTES * self._buckets)

    def dealt(self) -> Iterator[Keyed]:
        rows = np.flatnonzero(np.concatenate(self._kept)) if self._kept else np.array([], np.int64)
        if len(rows):
            records = pa.concat_tables(self._tables).combine_chunks()
            yield from self._by_bucket(records, rows)
        self._clear()

    def _by_bucket(self, records: pa.Table, rows: np.ndarray) -> Iterator[Keyed]:
        threads = TextColumn(_array(records["link_id" if "link_id" in records.column_names else "id"]))
        # Comments name their thread "t3_…", submissions leave that out.
        of_row = threads.hashed(but_for=b"t3_")[rows] % self._buckets
        of_row = of_row.astype(np.min_scalar_type(self._buckets))  # numpy sorts short integers in one pass
        order = np.argsort(of_row, kind="stable")
        bounds = np.searchsorted(of_row[order], np.arange(self._buckets + 1))
        (batch,) = records.take(pa.array(rows[order])).combine_chunks().to_batches()
        for bucket in range(self._buckets):
            if bounds[bucket] < bounds[bucket + 1]:
                yield Keyed(bucket, batch.slice(bounds[bucket], bounds[bucket + 1] - bounds[bucket]))


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
