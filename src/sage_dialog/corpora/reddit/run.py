"""Dialogues of Reddit months: dumps are extracted, then buckets assembled, and every finished part is kept.

Parts are kept in the scratch folder under a fingerprint of their inputs. After a kill the next run uses the finished
parts; when a month is added, only that month is extracted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from tqdm import tqdm

from sage_dialog.config import RedditRules
from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.corpora.reddit.assemble import assemble
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.extract import KEYED_COMMENTS, KEYED_SUBMISSIONS, extract
from sage_dialog.corpora.reddit.job import Job, RedditTables, collect, save_assembled
from sage_dialog.corpora.reddit.processes import DumpsBar, Progress, run_tasks, system_memory
from sage_dialog.corpora.reddit.tally import NO_LIMITS, Limits, Tally
from sage_dialog.corpora.reddit.threads import Part


def read_dialogues(
    files: Mapping[str, Path],
    rules: RedditRules,
    *,
    scratch: Path,
    workers: int | None = None,
    buckets: int | None = None,
    limits: Limits = NO_LIMITS,
) -> RedditTables:
    """Return the dialogues of the dumps by the DialoGPT recipe and the paper's filters (paper §3.1).

    The tables depend on files and rules alone.

    Args:
        files: dumps by file name (`RC_2015-02.zst`, `RS_2015-02.zst`, …); other files are ignored with a warning.
        rules: the thresholds.
        scratch: folder for finished parts.
        workers: number of processes; None takes one per core, 1 works in this process.
        buckets: number of buckets of threads; None decides by the size of the dumps.
        limits: losses of input up to which the run continues.

    Raises:
        InputDataError: if there is no month of comments, or if more is lost than `limits` allows.
    """
    job = Job.create(files, rules, buckets, scratch, limits)
    workers = workers or os.cpu_count() or 1
    extracted = _extract_all(job, workers, limits)
    return collect([one.tally for one in extracted], _assemble_all(job, extracted, workers))


@dataclass(frozen=True)
class Extracted:
    """A folder with the batches of a dump; `index` holds the batch numbers of each bucket."""

    dump: Dump
    folder: Path
    tally: Tally
    index: dict[str, list[int]]

    @classmethod
    def read(cls, dump: Dump, folder: Path, limits: Limits) -> Extracted:
        tally = Tally.from_json((folder / "tally.json").read_text(), limits)
        return cls(dump, folder, tally, json.loads((folder / "index.json").read_text()))

    def parts(self, bucket: int) -> list[Part]:
        if not (numbers := self.index.get(str(bucket))):
            return []
        with pa.OSFile(str(self.folder / "batches.arrow")) as source:
            batches = pa.ipc.open_file(source)
            return [Part(self.dump.month, self.dump.path.name, batches.get_batch(number)) for number in numbers]


def _extract_all(job: Job, workers: int, limits: Limits) -> list[Extracted]:
    folders = {dump: job.extracted_folder(dump) for dump in job.dumps}
    sizes = {dump: dump.path.stat().st_size for dump in job.dumps if not folders[dump].is_dir()}
    # Large dumps first, so that workers finish at about the same time.
    tasks = [
        (dump, job.rules, job.buckets, folders[dump], limits) for dump in sorted(sizes, key=sizes.__getitem__)[::-1]
    ]
    with DumpsBar(len(folders), len(folders) - len(tasks), sum(sizes.values())) as bar:
        for tally in run_tasks(extract_to, tasks, workers, bar.report):
            bar.finish_dump()
            tally.check()
    extracted = [Extracted.read(dump, folder, limits) for dump, folder in folders.items()]
    for one in extracted:
        one.tally.check()
    return extracted


@system_memory()
def extract_to(dump: Dump, rules: RedditRules, buckets: int, folder: Path, limits: Limits, progress: Progress) -> Tally:
    """Extract a dump into a folder that appears only when it is complete."""
    tally, index = Tally(dump.month, dump.path.name, limits), dict[int, list[int]]()
    schema = KEYED_COMMENTS if dump.kind == "RC" else KEYED_SUBMISSIONS
    with atomic_folder(folder) as partial:
        with pa.OSFile(str(partial / "batches.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as batches:
            for number, (bucket, batch) in enumerate(extract(dump, rules, buckets, tally, progress)):
                batches.write_batch(batch)
                index.setdefault(bucket, []).append(number)
        (partial / "index.json").write_text(json.dumps(index))
        (partial / "tally.json").write_text(tally.to_json())
    return tally


def _assemble_all(job: Job, extracted: Sequence[Extracted], workers: int) -> list[Path]:
    folders = job.bucket_folders()
    tasks = [(bucket, extracted, job.rules, folder) for bucket, folder in enumerate(folders) if not folder.is_dir()]
    with tqdm(total=len(folders), initial=len(folders) - len(tasks), desc="Reddit threads", unit="bucket") as bar:
        for _ in run_tasks(assemble_to, tasks, workers, lambda *_: None):
            bar.update()
    return folders


@system_memory()
def assemble_to(bucket: int, extracted: Sequence[Extracted], rules: RedditRules, folder: Path, _: Progress) -> None:
    """Assemble a bucket into a folder that appears only when it is complete."""
    comments, submissions = (
        [part for one in extracted if one.dump.kind == kind for part in one.parts(bucket)] for kind in ("RC", "RS")
    )
    save_assembled(assemble(comments, submissions, rules), folder)
