"""Batches of a dump keyed by thread: the first of the two functions that every executor runs.

A thread's comments and its submission fall into the same bucket whatever their month, so that a bucket can be
assembled by itself and chains cross month boundaries. Comments that no path can contain are removed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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


def extract(
    dump: Dump, rules: RedditRules, buckets: int, tally: Tally, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the comments of a dump that pass the rules on single comments, or its submissions.

    Args:
        dump: one month's comments or submissions.
        rules: the thresholds.
        buckets: number of buckets.
        tally: counts every removed line.
        progress: called with the compressed bytes and the lines read since the last call.

    Yields:
        Buckets, each with a batch of KEYED_COMMENTS or KEYED_SUBMISSIONS in the order of the dump. A bucket has a
        batch for each time that enough records are read.
    """
    reported = 0

    def report(read: int) -> None:
        nonlocal reported
        if progress is not None:
            progress(read, tally.lines - reported)
            reported = tally.lines

    buffer: list[pa.Table] = []
    kept: list[np.ndarray] = []  # masks of the rows of `buffer`
    for records in read_records(dump, tally, report):
        buffer.append(records)
        if dump.kind == "RC":
            kept.append(_apply_rules(_comment_rules(records, rules), len(records), tally))
        else:
            tally.removed[Rule.SUBMISSION] += len(records)
            kept.append(np.ones(len(records), bool))
        size, rows = sum(table.nbytes for table in buffer), sum(map(len, buffer))
        if rows > _BUFFER_ROWS or size > max(_BUFFER_BYTES, _BATCH_BYTES * buckets):
            yield from _by_bucket(buffer, kept, buckets)
            buffer, kept = [], []
    report(0)
    yield from _by_bucket(buffer, kept, buckets)


def _comment_rules(comments: pa.Table, rules: RedditRules) -> Iterator[tuple[Rule, np.ndarray]]:
    """Yield each rule on single comments with a mask of the rows it applies to."""
    if rules.blocked_subreddits:
        blocked = {name.casefold() for name in rules.blocked_subreddits}
        names = _array(comments["subreddit"]).dictionary_encode()
        is_blocked = np.array([name.casefold() in blocked for name in names.dictionary.to_pylist()], bool)
        yield Rule.BLOCKED_SUBREDDIT, is_blocked[names.indices.to_numpy()]
    text = TextColumn(_array(comments["body"]))
    yield Rule.DELETED, text.where(lambda body: body.strip() in _DELETED, text.rows_with(b"ed]", 2))
    yield Rule.QUOTE, text.rows_with(b">") | text.rows_with(b"&gt;")
    few = rules.min_body_words
    unsure = ~text.begins_with_two_words() if few <= 2 else None
    yield Rule.SHORT_BODY, text.where(lambda body: len(body.split(None, few)) < few, unsure)


def _apply_rules(matches: Iterator[tuple[Rule, np.ndarray]], rows: int, tally: Tally) -> np.ndarray:
    """Return a mask of the rows that no rule removes."""
    kept = np.ones(rows, bool)
    for rule, matching in matches:
        tally.removed[rule] += int((kept & matching).sum())
        kept &= ~matching
    return kept


def _by_bucket(
    tables: Sequence[pa.Table], kept: Sequence[np.ndarray], buckets: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows to keep of some tables, split into buckets."""
    rows = np.flatnonzero(np.concatenate(kept)) if kept else np.array([], np.int64)
    if not len(rows):
        return
    records = pa.concat_tables(tables).combine_chunks()
    threads = TextColumn(_array(records["link_id" if "link_id" in records.column_names else "id"]))
    # Comments name their thread "t3_…", submissions without the prefix.
    bucket_of = threads.hash(ignored_prefix=b"t3_")[rows] % buckets
    bucket_of = bucket_of.astype(np.min_scalar_type(buckets))  # numpy sorts short integers in one pass
    order = np.argsort(bucket_of, kind="stable")
    bounds = np.searchsorted(bucket_of[order], np.arange(buckets + 1))
    (batch,) = records.take(pa.array(rows[order])).combine_chunks().to_batches()
    for bucket in range(buckets):
        if bounds[bucket] < bounds[bucket + 1]:
            yield bucket, batch.slice(bounds[bucket], bounds[bucket + 1] - bounds[bucket])


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
