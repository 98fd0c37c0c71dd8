"""Dialogues of Reddit months: dumps are extracted, then buckets assembled, and every finished part is kept.

Parts are kept in the scratch folder under a fingerprint of their inputs. After a kill the next run uses the finished
parts; when a month is added, only that month is extracted.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from sage_dialog.config import RedditRules
from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.corpora.reddit.assemble import assemble
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.extract import (
    KEYED_COMMENTS,
    KEYED_SUBMISSIONS,
    THREAD_HASH,
    Bucket,
    count_rows,
    extract,
    merge,
    rows_between,
    split_hashes,
)
from sage_dialog.corpora.reddit.job import Job, RedditTables, collect, reading, save_assembled
from sage_dialog.corpora.reddit.processes import DumpsBar, Progress, run_tasks, system_memory
from sage_dialog.corpora.reddit.tally import NO_LIMITS, Limits, Tally
from sage_dialog.corpora.reddit.threads import Part


def read_dialogues(
    files: Mapping[str, Path],
    rules: RedditRules,
    *,
    scratch: Path,
    bucket_comments: int,
    workers: int | None = None,
    limits: Limits = NO_LIMITS,
) -> RedditTables:
    """Return the dialogues of the dumps by the DialoGPT recipe and the paper's filters (paper §3.1).

    The tables depend on files and rules alone.

    Args:
        files: dumps by file name (`RC_2015-02.zst`, `RS_2015-02.zst`, …); other files are ignored with a warning.
        rules: the thresholds.
        scratch: folder for finished parts.
        bucket_comments: number of comments that a process assembles at once; only a single hash may have more.
        workers: number of processes; None takes one per core, 1 works in this process.
        limits: losses of input up to which the run continues.

    Raises:
        InputDataError: if there is no month of comments, or if more is lost than `limits` allows.
        ValueError: if another process uses the scratch folder, or if a finished part cannot be read.
    """
    job = Job.create(files, rules, scratch, limits)
    workers = workers or os.cpu_count() or 1
    with job.locked():
        extracted = _extract_all(job, workers, limits)
        tallies = [one.read_tally(limits) for one in extracted]
        for tally in tallies:
            tally.check()
        return collect(tallies, _assemble_all(job, extracted, bucket_comments, workers))


@dataclass(frozen=True)
class Extracted:
    """A folder with the sorted batches of a dump."""

    dump: Dump
    folder: Path

    def read_tally(self, limits: Limits) -> Tally:
        with reading(self.folder / "tally.json") as file:
            return Tally.from_json(file.read_text(), limits)

    @property
    def path(self) -> Path:
        """The file of all batches: sorted by `thread_hash` from the first row of the first to the last of the last."""
        return self.folder / "batches.arrow"

    def parts(self, bucket: Bucket) -> list[Part]:
        with reading(self.folder / "lows.json") as file:
            lows = json.loads(file.read_text())  # the first hash of each batch
        numbers = range(max(0, bisect_left(lows, bucket.low) - 1), bisect_left(lows, bucket.high))
        found = (rows_between(batch, bucket) for batch in read_batches(self.path, numbers))
        return [Part(self.dump.month, self.dump.path.name, rows) for rows in found if len(rows)]


def read_batches(path: Path, numbers: Iterable[int] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield batches of a file, all without `numbers`; their rows stay on disk until they are used."""
    with reading(path) as file, pa.memory_map(str(file)) as source:
        batches = pa.ipc.open_file(source)
        yield from map(batches.get_batch, range(batches.num_record_batches) if numbers is None else numbers)


def _extract_all(job: Job, workers: int, limits: Limits) -> list[Extracted]:
    folders = {dump: job.extracted_folder(dump) for dump in job.dumps}
    sizes = {dump: dump.path.stat().st_size for dump in job.dumps if not folders[dump].is_dir()}
    # Large dumps first, so that workers finish at about the same time.
    tasks = [(dump, job.rules, folders[dump], limits) for dump in sorted(sizes, key=sizes.__getitem__)[::-1]]
    with DumpsBar(len(folders), len(folders) - len(tasks), sum(sizes.values())) as bar:
        for tally in run_tasks(extract_to, tasks, workers, bar.report):
            bar.finish_dump()
            tally.check()
    return [Extracted(dump, folder) for dump, folder in folders.items()]


@system_memory()
def extract_to(dump: Dump, rules: RedditRules, folder: Path, limits: Limits, progress: Progress) -> Tally:
    """Extract a dump into a folder that appears only when it is complete."""
    tally = Tally(dump.month, dump.path.name, limits)
    schema = KEYED_COMMENTS if dump.kind == "RC" else KEYED_SUBMISSIONS
    with atomic_folder(folder) as partial:
        extracted = Extracted(dump, partial)
        batches, lows = partial / "unmerged.arrow", list[int]()
        with pa.OSFile(str(batches), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in extract(dump, rules, tally, progress):
                writer.write_batch(batch)
        with pa.OSFile(str(extracted.path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in merge(lambda: read_batches(batches)):
                writer.write_batch(batch)
                lows.append(batch.column(THREAD_HASH.name)[0].as_py())
        batches.unlink()
        (partial / "lows.json").write_text(json.dumps(lows))
        (partial / "tally.json").write_text(tally.to_json())
    return tally


def size_buckets(extracted: Sequence[Extracted], bucket_comments: int) -> list[Bucket]:
    """Return buckets that have about `bucket_comments` comments each."""
    batches = (batch for one in extracted if one.dump.kind == "RC" for batch in read_batches(one.path))
    return split_hashes(count_rows(batches), bucket_comments)


def _assemble_all(job: Job, extracted: Sequence[Extracted], bucket_comments: int, workers: int) -> list[Path]:
    buckets = size_buckets(extracted, bucket_comments)
    folders = dict(zip(buckets, job.bucket_folders(buckets), strict=True))
    tasks = [(bucket, extracted, job.rules, folder) for bucket, folder in folders.items() if not folder.is_dir()]
    with tqdm(total=len(folders), initial=len(folders) - len(tasks), desc="Reddit threads", unit="bucket") as bar:
        for _ in run_tasks(assemble_to, tasks, workers, lambda *_: None):
            bar.update()
    return [*folders.values()]


@system_memory()
def assemble_to(bucket: Bucket, extracted: Sequence[Extracted], rules: RedditRules, folder: Path, _: Progress) -> None:
    """Assemble a bucket into a folder that appears only when it is complete."""
    comments, submissions = (
        [part for one in extracted if one.dump.kind == kind for part in one.parts(bucket)] for kind in ("RC", "RS")
    )
    save_assembled(assemble(comments, submissions, rules), folder)
