"""Dialogues of Reddit months: dumps are extracted, then buckets assembled, and every finished part is kept.

Parts are kept in the scratch folder under a fingerprint of their inputs. After a kill the next run uses the finished
parts; when a month is added, only that month is extracted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sage_dialog.config import RedditRules
from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.corpora.reddit.assemble import assemble
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.extract import Bucket, extract, split_hashes
from sage_dialog.corpora.reddit.extracted import Extracted
from sage_dialog.corpora.reddit.job import Job, RedditTables, collect, save_assembled
from sage_dialog.corpora.reddit.processes import DumpsBar, Progress, run_tasks, system_memory
from sage_dialog.corpora.reddit.tally import NO_LIMITS, Limits, Tally

_COMMENT_BYTES = 100  # of a compressed dump, about
# Ranges of hashes of a run. Buckets that are finer read more than they need, so the runs are merged.
_MAX_RANGES = 256


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
        extracted = _extract_all(job, bucket_comments, workers, limits)
        tallies = [one.read_tally(limits) for one in extracted]
        for tally in tallies:
            tally.check()
        return collect(tallies, _assemble_all(job, extracted, bucket_comments, workers))


def _extract_all(job: Job, bucket_comments: int, workers: int, limits: Limits) -> list[Extracted]:
    folders = {dump: job.extracted_folder(dump) for dump in job.dumps}
    sizes = {dump: dump.path.stat().st_size for dump in job.dumps if not folders[dump].is_dir()}
    buckets = _estimate_buckets(job.dumps, bucket_comments)
    # Large dumps first, so that workers finish at about the same time.
    tasks = [(dump, job.rules, folders[dump], limits, buckets) for dump in sorted(sizes, key=sizes.__getitem__)[::-1]]
    with DumpsBar(len(folders), len(folders) - len(tasks), sum(sizes.values())) as bar:
        for tally in run_tasks(extract_to, tasks, workers, bar.report):
            bar.finish_dump()
            tally.check()
    return [Extracted(dump, folder) for dump, folder in folders.items()]


def _estimate_buckets(dumps: Sequence[Dump], bucket_comments: int) -> int:
    size = sum(dump.path.stat().st_size for dump in dumps if dump.kind == "RC")
    return max(1, size // (_COMMENT_BYTES * bucket_comments))


@system_memory()
def extract_to(dump: Dump, rules: RedditRules, folder: Path, limits: Limits, buckets: int, progress: Progress) -> Tally:
    """Extract a dump into a folder that appears only when it is complete; `buckets` is about their number."""
    tally = Tally(dump.month, dump.path.name, limits)
    with atomic_folder(folder) as partial:
        batches = extract(dump, rules, tally, progress)
        Extracted(dump, partial).write(batches, min(buckets, _MAX_RANGES), merged=buckets > _MAX_RANGES)
        (partial / "tally.json").write_text(tally.to_json())
    return tally


def size_buckets(extracted: Sequence[Extracted], bucket_comments: int) -> list[Bucket]:
    """Return buckets that have about `bucket_comments` comments each."""
    counts = [one.count_rows() for one in extracted if one.dump.kind == "RC"]
    return split_hashes(np.asarray(np.sum(counts, axis=0, dtype=np.int64)), bucket_comments)


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
