"""Extracted dumps on disk, from which a bucket reads its rows.

A file has one or more runs. A run is sorted by thread hash and split at equal ranges of hashes, a batch for each range,
so a bucket needs a few batches of each run. They are read, not mapped: a worker's memory does not grow with the file.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.extract import (
    HASHES,
    KEYED_COMMENTS,
    KEYED_SUBMISSIONS,
    THREAD_HASH,
    Bucket,
    equal_ranges,
    lowest_hash,
    rows_between,
    split_batch,
)
from sage_dialog.corpora.reddit.job import reading
from sage_dialog.corpora.reddit.tally import Limits, Tally
from sage_dialog.corpora.reddit.threads import Part

_MERGED_BATCH_BYTES = 1 << 18


class Layout(NamedTuple):
    """The numbers of runs, and of ranges of hashes in each: batch `run * ranges + range` has the rows of both."""

    runs: int
    ranges: int


@dataclass(frozen=True)
class Extracted:
    """A folder with the rows of a dump."""

    dump: Dump
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / "batches.arrow"

    def read_tally(self, limits: Limits) -> Tally:
        with reading(self.folder / "tally.json") as file:
            return Tally.from_json(file.read_text(), limits)

    def read_layout(self) -> Layout:
        with reading(self.folder / "layout.json") as file:
            return Layout(*json.loads(file.read_text()))

    def count_rows(self) -> np.ndarray:
        """Return the number of rows of each thread hash."""
        with reading(self.folder / "rows.npy") as file:
            return np.asarray(np.load(file))

    def parts(self, bucket: Bucket) -> list[Part]:
        """Return the rows of a bucket: one part, or none."""
        runs, ranges = self.read_layout()
        first = bisect_right(range(ranges), bucket.low, key=partial(lowest_hash, ranges)) - 1
        within = range(first, bisect_left(range(ranges), bucket.high, key=partial(lowest_hash, ranges)))
        batches = self.read_batches(run * ranges + number for run in range(runs) for number in within)
        found = [rows for batch in batches if len(rows := rows_between(batch, bucket))]
        return [Part(self.dump.month, self.dump.path.name, pa.concat_batches(found))] if found else []

    def read_batches(self, numbers: Iterable[int]) -> Iterator[pa.RecordBatch]:
        with reading(self.path) as file, pa.OSFile(str(file)) as source:
            yield from map(pa.ipc.open_file(source).get_batch, numbers)

    def write(self, batches: Iterable[pa.RecordBatch], ranges: int, merged: bool) -> None:
        """Write sorted batches, each as a run; as a single one if `merged`."""
        runs, counts = 0, np.zeros(HASHES, np.int64)
        with self._writer(self.path) as writer:
            for batch in batches:
                runs += 1
                counts += np.bincount(batch.column(THREAD_HASH.name).to_numpy(), minlength=HASHES)
                for part in split_batch(batch, equal_ranges(ranges)):
                    writer.write_batch(part)
        self._write_layout(Layout(runs, ranges))
        np.save(self.folder / "rows.npy", counts)
        if merged and runs > 1:
            self._merge()

    def _merge(self) -> None:
        """Sort the runs into one, with ranges of about the same bytes whatever the size of the file."""
        runs, ranges = self.read_layout()
        pieces = max(1, min(self.path.stat().st_size // (_MERGED_BATCH_BYTES * ranges), HASHES // ranges))
        narrow, target = equal_ranges(ranges * pieces), self.folder / "merged.arrow"
        with self._writer(target) as writer:
            for number in range(ranges):
                batch = pa.concat_batches([*self.read_batches(run * ranges + number for run in range(runs))])
                order = np.argsort(batch.column(THREAD_HASH.name).to_numpy(), kind="stable")
                batch = batch.take(pa.array(order))
                for part in split_batch(batch, narrow[number * pieces : (number + 1) * pieces]):
                    writer.write_batch(part)
        target.replace(self.path)
        self._write_layout(Layout(1, ranges * pieces))

    def _write_layout(self, layout: Layout) -> None:
        (self.folder / "layout.json").write_text(json.dumps(layout))

    @contextmanager
    def _writer(self, path: Path) -> Iterator[pa.RecordBatchFileWriter]:
        schema = KEYED_COMMENTS if self.dump.kind == "RC" else KEYED_SUBMISSIONS
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            yield writer
