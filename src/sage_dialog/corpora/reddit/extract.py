"""Batches of a dump sorted by thread: the first of the two functions that every executor runs.

A thread's comments and its submission have the same hash whatever their month. A bucket is a range of hashes, so it can
be assembled by itself, and chains cross month boundaries. Comments that no path can contain are removed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit.columns import TextColumn
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.reading import COMMENTS, LINE, SUBMISSIONS, read_records
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.corpora.reddit.tally import Tally

HASHES = 1 << 16
THREAD_HASH = pa.field("thread_hash", pa.uint16())
KEYED_COMMENTS = COMMENTS.append(LINE).append(THREAD_HASH)
KEYED_SUBMISSIONS = SUBMISSIONS.append(LINE).append(THREAD_HASH)
_DELETED = ("[deleted]", "[removed]")
# Records are sorted at so many bytes. More take more memory; fewer leave more pieces to read for a bucket.
_BATCH_BYTES = 1 << 23


class Bucket(NamedTuple):
    """The threads whose hash is at least `low` and below `high`."""

    low: int
    high: int


def extract(
    dump: Dump, rules: RedditRules, tally: Tally, progress: Callable[[int, int], None] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the comments of a dump that pass the rules on single comments, or its submissions.

    Args:
        dump: one month's comments or submissions.
        rules: the thresholds.
        tally: counts every removed line.
        progress: called with the compressed bytes and the lines read since the last call.

    Yields:
        Batches of KEYED_COMMENTS or KEYED_SUBMISSIONS, each sorted by `thread_hash`. Rows of one hash are in the order
        of the dump, within and across batches.
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
        if sum(table.nbytes for table in buffer) > _BATCH_BYTES:
            yield from _sorted(buffer, kept)
            buffer, kept = [], []
    report(0)
    yield from _sorted(buffer, kept)


def equal_ranges(count: int) -> list[Bucket]:
    """Return so many equal ranges of thread hashes; a multiple of `count` splits the same ranges further."""
    return [Bucket(low, high) for low, high in pairwise(lowest_hash(count, number) for number in range(count + 1))]


def lowest_hash(count: int, number: int) -> int:
    """Return the first hash of one of so many equal ranges."""
    return number * HASHES // count


def split_hashes(counts: np.ndarray, rows: int) -> list[Bucket]:
    """Return ranges of hashes that have about so many rows each; more only where a single hash has."""
    before = np.cumsum(counts) - counts
    lows = np.unique(before // rows, return_index=True)[1].tolist()
    return [Bucket(low, high) for low, high in pairwise([*lows, HASHES])]


def rows_between(batch: pa.RecordBatch, bucket: Bucket) -> pa.RecordBatch:
    """Return the rows of a bucket in a sorted batch, without copying them."""
    return split_batch(batch, [bucket])[0]


def split_batch(batch: pa.RecordBatch, buckets: Sequence[Bucket]) -> list[pa.RecordBatch]:
    """Return the rows of each bucket in a sorted batch, without copying them."""
    bounds = np.searchsorted(batch.column(THREAD_HASH.name).to_numpy(), np.array(buckets)).tolist()
    return [batch.slice(begin, end - begin) for begin, end in bounds]


def _comment_rules(comments: pa.Table, rules: RedditRules) -> Iterator[tuple[Rule, np.ndarray]]:
    """Yield each rule on single comments with a mask of the rows it applies to."""
    if rules.blocked_subreddits:
        blocked = {name.casefold() for name in rules.blocked_subreddits}
        names = _array(comments["subreddit"]).dictionary_encode()
        is_blocked = np.array([name.casefold() in blocked for name in names.dictionary.to_pylist()], bool)
        yield Rule.BLOCKED_SUBREDDIT, is_blocked[names.indices.to_numpy()]
    bodies = _array(comments["body"])
    text = TextColumn(bodies)
    first, last = text.first_bytes(), text.last_bytes()
    # What is no visible ASCII may be white space around the brackets.
    may_be_deleted = ((first == ord("[")) | ~_is_visible(first)) & ((last == ord("]")) | ~_is_visible(last))
    deleted = text.where(lambda body: body.strip() in _DELETED, may_be_deleted)
    yield Rule.DELETED, deleted
    yield Rule.QUOTE, text.rows_with(b">") | text.rows_with(b"&gt;")
    few = rules.min_body_words
    unsure = ~(deleted | text.begins_with_two_words()) if few <= 2 else None
    yield Rule.SHORT_BODY, text.where(lambda body: len(body.split(None, few)) < few, unsure)


def _is_visible(characters: np.ndarray) -> np.ndarray:
    """Return a mask of the visible ASCII characters."""
    return (characters > 32) & (characters < 127)


def _apply_rules(matches: Iterator[tuple[Rule, np.ndarray]], rows: int, tally: Tally) -> np.ndarray:
    """Return a mask of the rows that no rule removes."""
    kept = np.ones(rows, bool)
    for rule, matching in matches:
        tally.removed[rule] += int((kept & matching).sum())
        kept &= ~matching
    return kept


def _sorted(tables: Sequence[pa.Table], kept: Sequence[np.ndarray]) -> Iterator[pa.RecordBatch]:
    """Yield the rows to keep of some tables as one batch, sorted by the hash of their threads."""
    rows = np.flatnonzero(np.concatenate(kept)) if kept else np.array([], np.int64)
    if not len(rows):
        return
    records = pa.concat_tables(tables).combine_chunks()
    threads = TextColumn(_array(records["link_id" if "link_id" in records.column_names else "id"]))
    # Comments name their thread "t3_…", submissions without the prefix.
    hashes = (threads.hash(ignored_prefix=b"t3_")[rows] >> np.uint64(16)).astype(np.uint16)
    order = np.argsort(hashes, kind="stable")  # in one pass: the integers are short
    taken = records.take(pa.array(rows[order])).append_column(THREAD_HASH, pa.array(hashes[order]))
    yield from taken.combine_chunks().to_batches()


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
