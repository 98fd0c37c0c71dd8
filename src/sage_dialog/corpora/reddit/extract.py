"""Batches of a dump keyed by thread: the first of the two functions that every executor runs.

A thread's comments and its submission fall into the same bucket whatever their month, so that a bucket can be
assembled by itself and chains cross month boundaries. Comments that no path can contain are removed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit.columns import TextColumn
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.reading import COMMENTS, LINE, SUBMISSIONS, read_records
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.corpora.reddit.tally import Tally

KEYED_COMMENTS = COMMENTS.append(LINE)
KEYED_SUBMISSIONS = SUBMISSIONS.append(LINE)
_DELETED = ("[deleted]", "[removed]")
# Buffered records are split into buckets at so many rows, or at so many bytes, or at so many bytes per bucket.
_BUFFER_ROWS, _BUFFER_BYTES, _BATCH_BYTES = 1 << 14, 1 << 22, 1 << 13


class Keyed(NamedTuple):
    """Comments (KEYED_COMMENTS) or submissions (KEYED_SUBMISSIONS) of one bucket, in the order of the dump."""

    bucket: int
    batch: pa.RecordBatch


def extract(
    dump: Dump, rules: RedditRules, buckets: int, tally: Tally, progress: Callable[[int, int], None] | None = None
) -> Iterator[Keyed]:
    """Yield the comments of a dump that pass the rules on single comments, or its submissions.

    Args:
        dump: one month's comments or submissions.
        rules: the thresholds.
        buckets: number of buckets.
        tally: counts every removed line.
        progress: called with the compressed bytes and the lines read since the last call.

    Yields:
        One batch for every bucket that has records, by bucket, each time the buffer is full.
    """
    reported = 0

    def report(read: int) -> None:
        nonlocal reported
        if progress is not None:
            progress(read, tally.lines - reported)
            reported = tally.lines

    buffer = _Buffer(buckets)
    for records in read_records(dump, tally, report):
        if dump.kind == "RC":
            buffer.add(records, _apply_rules(_comment_rules(records, rules), len(records), tally))
        else:
            tally.removed[Rule.SUBMISSION] += len(records)
            buffer.add(records, np.ones(len(records), bool))
        if buffer.is_full():
            yield from buffer.flush()
    report(0)
    yield from buffer.flush()


def _comment_rules(comments: pa.Table, rules: RedditRules) -> Iterator[tuple[Rule, np.ndarray]]:
    """Yield each rule on single comments with a mask of the rows it applies to."""
    body = _array(comments["body"])
    if rules.blocked_subreddits:
        blocked = {name.casefold() for name in rules.blocked_subreddits}
        names = _array(comments["subreddit"]).dictionary_encode()
        is_blocked = np.array([name.casefold() in blocked for name in names.dictionary.to_pylist()], bool)
        yield Rule.BLOCKED_SUBREDDIT, is_blocked[names.indices.to_numpy()]
    text = TextColumn(body)
    yield Rule.DELETED, text.where(lambda body: body.strip() in _DELETED, text.rows_with(b"ed]", 2))
    yield Rule.QUOTE, text.rows_with(b">") | text.rows_with(b"&gt;")
    few = rules.min_body_words
    yield (
        Rule.SHORT_BODY,
        text.where(lambda body: _is_short(body, few), ~text.begins_with_two_words() if few <= 2 else None),
    )


def _is_short(text: str, min_words: int) -> bool:
    return len(text.split(None, min_words)) < min_words


def _apply_rules(matches: Iterator[tuple[Rule, np.ndarray]], rows: int, tally: Tally) -> np.ndarray:
    """Return a mask of the rows that no rule removes."""
    kept = np.ones(rows, bool)
    for rule, matching in matches:
        tally.removed[rule] += int((kept & matching).sum())
        kept &= ~matching
    return kept


class _Buffer:
    """Records that are not yet split into buckets, with masks of the rows to keep."""

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
        size, rows = sum(table.nbytes for table in self._tables), sum(map(len, self._tables))
        return rows > _BUFFER_ROWS or size > max(_BUFFER_BYTES, _BATCH_BYTES * self._buckets)

    def flush(self) -> Iterator[Keyed]:
        rows = np.flatnonzero(np.concatenate(self._kept)) if self._kept else np.array([], np.int64)
        if len(rows):
            records = pa.concat_tables(self._tables).combine_chunks()
            yield from self._by_bucket(records, rows)
        self._clear()

    def _by_bucket(self, records: pa.Table, rows: np.ndarray) -> Iterator[Keyed]:
        threads = TextColumn(_array(records["link_id" if "link_id" in records.column_names else "id"]))
        # Comments name their thread "t3_…", submissions without the prefix.
        bucket_of = threads.hash(ignored_prefix=b"t3_")[rows] % self._buckets
        bucket_of = bucket_of.astype(np.min_scalar_type(self._buckets))  # numpy sorts short integers in one pass
        order = np.argsort(bucket_of, kind="stable")
        bounds = np.searchsorted(bucket_of[order], np.arange(self._buckets + 1))
        (batch,) = records.take(pa.array(rows[order])).combine_chunks().to_batches()
        for bucket in range(self._buckets):
            if bounds[bucket] < bounds[bucket + 1]:
                yield Keyed(bucket, batch.slice(bounds[bucket], bounds[bucket + 1] - bounds[bucket]))


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
