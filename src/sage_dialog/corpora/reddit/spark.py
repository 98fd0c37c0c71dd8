"""`extract` and `assemble` on Spark: by `mapInArrow`, and by `groupBy("bucket").applyInArrow`.

The batches between them are those that a process pool writes to files, so the tables are equal. Finished buckets are
kept in the scratch folder as those of a process pool; after a kill the next run assembles the others.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from sage_dialog.config import RedditRules
from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.corpora.reddit.assemble import Assembled, assemble
from sage_dialog.corpora.reddit.dumps import Dump, find_dumps
from sage_dialog.corpora.reddit.extract import extract
from sage_dialog.corpora.reddit.reading import Tally
from sage_dialog.corpora.reddit.run import (
    DumpSummary,
    Job,
    RedditTables,
    bucket_folder,
    collect,
    count_buckets,
    read_assembled,
    removed_from_json,
    removed_to_json,
    save_assembled,
)
from sage_dialog.corpora.reddit.threads import Part

# A row is a batch of a dump; in bucket -1 it is the summary of the dump.
_KEYED = "bucket int, dump int, number int, batch binary"
_ASSEMBLED = "bucket int, dialogues binary, rejected binary, removed string"
_SUMMARY = -1
_SUMMARY_FILE = "summaries.json"


def read_dialogues_on_spark(
    files: Mapping[str, Path],
    rules: RedditRules,
    *,
    scratch: Path,
    buckets: int | None = None,
    max_reject_share: float = 1.0,
) -> RedditTables:
    """Return what `run.read_dialogues` returns, computed by the configured Spark, or by a local one.

    On a cluster the dumps must be reachable for every executor (`s3://…`), and sage-dialog installed on each.

    Raises:
        ModuleNotFoundError: if pyspark is not installed.
        FileNotFoundError: if there is no month of comments.
        ValueError: if too many lines of a dump cannot be read.
    """
    dumps = find_dumps(files)
    job = Job(scratch / "reddit", rules, buckets or count_buckets(dumps))
    folder = job.assembled_folder(dumps)
    folders = [bucket_folder(folder, bucket) for bucket in range(job.buckets)]
    if missing := [bucket for bucket, kept in enumerate(folders) if not kept.is_dir()]:
        _assemble_on_spark(job, dumps, missing, max_reject_share)
    summaries = [DumpSummary.from_json(text) for text in json.loads((folder / _SUMMARY_FILE).read_text())]
    for summary in summaries:
        summary.check(max_reject_share)
    return collect(summaries, [read_assembled(folder) for folder in folders])


def _assemble_on_spark(job: Job, dumps: Sequence[Dump], missing: Sequence[int], max_reject_share: float) -> None:
    from pyspark import StorageLevel
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # a local Spark takes the first python3 otherwise
    spark = SparkSession.builder.appName("sage-dialog").getOrCreate()
    folder = job.assembled_folder(dumps)
    keyed = (
        spark.range(len(dumps), numPartitions=len(dumps))
        .mapInArrow(_Extractor(dumps, job, frozenset(missing)), _KEYED)
        .persist(StorageLevel.DISK_ONLY)
    )
    rows = keyed.where(f"bucket = {_SUMMARY}").collect()
    summaries = [DumpSummary.from_json(bytes(row.batch).decode()) for row in rows]
    for summary in summaries:
        summary.check(max_reject_share)
    with atomic_file(folder / _SUMMARY_FILE) as partial:
        partial.write_text(json.dumps([summary.to_json() for summary in summaries]))

    groups = keyed.where(f"bucket <> {_SUMMARY}").groupBy("bucket")
    assembler = _Assembler(dumps, job.rules)
    # Spark counts the arguments of a function, `self` included.
    assembled = groups.applyInArrow(lambda rows: assembler(rows), _ASSEMBLED)
    empty = set(missing)
    for row in tqdm(assembled.toLocalIterator(), total=len(missing), desc="Reddit threads", unit="bucket"):
        counts = removed_from_json(row.removed)
        save_assembled(
            Assembled(_table(row.dialogues), _table(row.rejected), counts), bucket_folder(folder, row.bucket)
        )
        empty.remove(row.bucket)
    for bucket in empty:  # no thread is in it
        save_assembled(assemble([], [], job.rules), bucket_folder(folder, bucket))
    keyed.unpersist()


@dataclass(frozen=True)
class _Extractor:
    """Maps dump numbers to rows of _KEYED."""

    dumps: Sequence[Dump]
    job: Job
    buckets: frozenset[int]

    def __call__(self, numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for which in (number for batch in numbers for number in batch.column(0).to_pylist()):
            dump, tally = self.dumps[which], Tally()
            for number, keyed in enumerate(extract(dump, self.job.rules, self.job.buckets, tally)):
                if keyed.bucket in self.buckets:
                    yield _keyed(keyed.bucket, which, number, _bytes(pa.Table.from_batches([keyed.batch])))
            summary = DumpSummary(dump.month, dump.path.name, tally).to_json()
            yield _keyed(_SUMMARY, which, 0, summary.encode())


@dataclass(frozen=True)
class _Assembler:
    """Maps the rows of a bucket to one row of _ASSEMBLED."""

    dumps: Sequence[Dump]
    rules: RedditRules

    def __call__(self, keyed: pa.Table) -> pa.Table:
        parts: dict[str, list[Part]] = {"RC": [], "RS": []}
        for row in keyed.sort_by([("dump", "ascending"), ("number", "ascending")]).to_pylist():
            dump = self.dumps[row["dump"]]
            batches = _table(row["batch"]).to_batches()
            parts[dump.kind] += [Part(dump.month, dump.path.name, batch) for batch in batches]
        assembled = assemble(parts["RC"], parts["RS"], self.rules)
        return pa.table(
            {
                "bucket": keyed["bucket"].slice(0, 1),
                "dialogues": [_bytes(assembled.dialogues)],
                "rejected": [_bytes(assembled.rejected)],
                "removed": [removed_to_json(assembled.removed)],
            }
        )


def _keyed(bucket: int, dump: int, number: int, batch: bytes) -> pa.RecordBatch:
    numbers = [pa.array([value], pa.int32()) for value in (bucket, dump, number)]
    return pa.RecordBatch.from_arrays([*numbers, pa.array([batch], pa.binary())], ["bucket", "dump", "number", "batch"])


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _table(content: bytes) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(content)).read_all()
