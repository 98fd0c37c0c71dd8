"""`extract` and `assemble` on Spark: by `mapInArrow`, and by `groupBy("bucket").applyInArrow`.

The batches between them are those that a process pool writes to files, so the tables are equal. Finished buckets are
kept in the scratch folder as those of a process pool; after a kill the next run assembles the others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from sage_dialog.config import RedditRules
from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.corpora.reddit.assemble import Assembled, assemble
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.extract import THREAD_HASH, Bucket, equal_ranges, extract
from sage_dialog.corpora.reddit.job import (
    Job,
    RedditTables,
    collect,
    removed_from_json,
    removed_to_json,
    save_assembled,
)
from sage_dialog.corpora.reddit.tally import NO_LIMITS, Limits, Tally
from sage_dialog.corpora.reddit.threads import Part
from sage_dialog.corpora.rejects import InputDataError

# A row is a batch of a dump; in bucket -1 it is the tally of the dump.
_KEYED = "bucket int, dump int, number int, batch binary"
_ASSEMBLED = "bucket int, dialogues binary, rejected binary, removed string"
_TALLY = -1
# Compressed bytes of dumps per bucket: some 60,000 comments.
_BUCKET_BYTES = 8 << 20
_MIN_BUCKETS, _MAX_BUCKETS = 8, 4096


def read_dialogues_on_spark(
    files: Mapping[str, Path],
    rules: RedditRules,
    *,
    scratch: Path,
    limits: Limits = NO_LIMITS,
) -> RedditTables:
    """Return what `run.read_dialogues` returns, computed by the configured Spark, or by a local one.

    On a cluster the dumps must be reachable for every executor (`s3://…`), and sage-dialog installed on each.

    Raises:
        ModuleNotFoundError: if pyspark is not installed.
        InputDataError: if there is no month of comments, or if more is lost than `limits` allows.
        ValueError: if another process uses the scratch folder.
    """
    job = Job.create(files, rules, scratch, limits)
    with job.locked():
        buckets = equal_buckets(job.dumps)
        folders = job.bucket_folders(buckets)
        tally_file = job.assembled_folder() / "tallies.json"
        missing = {bucket: folder for bucket, folder in enumerate(folders) if not folder.is_dir()}
        if missing:
            _assemble_on_spark(job, buckets, missing, tally_file, limits)
        tallies = [Tally.from_json(text, limits) for text in json.loads(tally_file.read_text())]
        for tally in tallies:
            tally.check()
        return collect(tallies, folders)


def equal_buckets(dumps: Sequence[Dump]) -> list[Bucket]:
    """Return equal ranges of thread hashes: Spark groups rows by bucket before their number is known."""
    count = min(max(_MIN_BUCKETS, -(-sum(dump.path.stat().st_size for dump in dumps) // _BUCKET_BYTES)), _MAX_BUCKETS)
    return equal_ranges(count)


def _assemble_on_spark(
    job: Job, buckets: Sequence[Bucket], missing: Mapping[int, Path], tally_file: Path, limits: Limits
) -> None:
    from pyspark import StorageLevel
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # a local Spark takes the first python3 otherwise
    spark = SparkSession.builder.appName("sage-dialog").getOrCreate()
    lows, wanted = [bucket.low for bucket in buckets], frozenset(missing)
    keyed = (
        spark.range(len(job.dumps), numPartitions=len(job.dumps))
        .mapInArrow(lambda numbers: _extract(numbers, job, lows, wanted, limits), _KEYED)
        .persist(StorageLevel.DISK_ONLY)
    )
    tallies = [bytes(row.batch).decode() for row in keyed.where(f"bucket = {_TALLY}").collect()]
    for text in tallies:
        Tally.from_json(text, limits).check()
    with atomic_file(tally_file) as partial:
        partial.write_text(json.dumps(tallies))

    groups = keyed.where(f"bucket <> {_TALLY}").groupBy("bucket")
    assembled = groups.applyInArrow(lambda rows: _assemble(rows, job), _ASSEMBLED)
    empty = set(missing)
    for row in tqdm(assembled.toLocalIterator(), total=len(missing), desc="Reddit threads", unit="bucket"):
        tables = Assembled(_table(row.dialogues), _table(row.rejected), removed_from_json(row.removed))
        save_assembled(tables, missing[row.bucket])
        empty.remove(row.bucket)
    for bucket in empty:  # no thread is in it
        save_assembled(assemble([], [], job.rules), missing[bucket])
    keyed.unpersist()


def _extract(
    numbers: Iterable[pa.RecordBatch], job: Job, lows: Sequence[int], wanted: Set[int], limits: Limits
) -> Iterator[pa.RecordBatch]:
    """Map batches of dump numbers to rows of _KEYED."""
    for which in (number for batch in numbers for number in batch.column(0).to_pylist()):
        dump = job.dumps[which]
        tally = Tally(dump.month, dump.path.name, limits)
        with suppress(InputDataError):  # the driver raises it, from the tally
            for number, batch in enumerate(extract(dump, job.rules, tally)):
                begins = np.searchsorted(batch.column(THREAD_HASH.name).to_numpy(), lows).tolist()
                for bucket, (begin, end) in enumerate(pairwise([*begins, len(batch)])):
                    if bucket in wanted and begin < end:
                        rows = pa.Table.from_batches([batch.slice(begin, end - begin)])
                        yield _row(bucket, which, number, _bytes(rows))
        yield _row(_TALLY, which, 0, tally.to_json().encode())


def _row(bucket: int, dump: int, number: int, batch: bytes) -> pa.RecordBatch:
    numbers = [pa.array([value], pa.int32()) for value in (bucket, dump, number)]
    return pa.RecordBatch.from_arrays([*numbers, pa.array([batch], pa.binary())], ["bucket", "dump", "number", "batch"])


def _assemble(keyed: pa.Table, job: Job) -> pa.Table:
    """Map the rows of a bucket to one row of _ASSEMBLED."""
    parts: dict[str, list[Part]] = {"RC": [], "RS": []}
    for row in keyed.sort_by([("dump", "ascending"), ("number", "ascending")]).to_pylist():
        dump = job.dumps[row["dump"]]
        parts[dump.kind] += [Part(dump.month, dump.path.name, batch) for batch in _table(row["batch"]).to_batches()]
    assembled = assemble(parts["RC"], parts["RS"], job.rules)
    return pa.table(
        {
            "bucket": keyed["bucket"].slice(0, 1),
            "dialogues": [_bytes(assembled.dialogues)],
            "rejected": [_bytes(assembled.rejected)],
            "removed": [removed_to_json(assembled.removed)],
        }
    )


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _table(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(content)).read_all()
