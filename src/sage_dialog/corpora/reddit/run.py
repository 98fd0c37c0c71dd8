"""Dialogues of Reddit months: dumps are extracted, then buckets assembled, and every finished part is kept.

Parts are kept in the scratch folder under a fingerprint of their inputs. After a kill the next run uses the finished
parts; when a month is added, only that month is extracted.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from sage_dialog.config import RedditRules
from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.hashing import fingerprint
from sage_dialog.core.sentiment import lexicon
from sage_dialog.core.tables import DataFrame, from_arrow
from sage_dialog.corpora.reddit.assemble import Assembled, assemble
from sage_dialog.corpora.reddit.dumps import Dump, find_dumps
from sage_dialog.corpora.reddit.extract import KEYED_COMMENTS, KEYED_SUBMISSIONS, extract
from sage_dialog.corpora.reddit.processes import DumpsBar, Progress, run_tasks, system_memory
from sage_dialog.corpora.reddit.reading import Tally
from sage_dialog.corpora.reddit.rules import Rule, filter_report
from sage_dialog.corpora.reddit.threads import Part
from sage_dialog.schemas import REJECTED_LINES

logger = logging.getLogger(__name__)

# Compressed bytes of dumps per bucket: some 60,000 comments, which are assembled faster than they are extracted. The
# number of buckets is limited, since batches of a few comments would be slow.
_BUCKET_BYTES = 8 << 20
_MIN_BUCKETS, _MAX_BUCKETS = 8, 4096
_CODE = ("corpora", "config", "core", "schemas")


class RedditTables(NamedTuple):
    """Tables of `schemas.DIALOGUES`, `schemas.FILTER_REPORT` and `schemas.REJECTED_LINES`."""

    dialogues: DataFrame
    filter_report: DataFrame
    rejected_lines: DataFrame


def read_dialogues(
    files: Mapping[str, Path],
    rules: RedditRules,
    *,
    scratch: Path,
    workers: int | None = None,
    buckets: int | None = None,
    max_reject_share: float = 1.0,
) -> RedditTables:
    """Return the dialogues of the dumps by the DialoGPT recipe and the paper's filters (paper §3.1).

    The tables depend on files and rules alone.

    Args:
        files: dumps by file name (`RC_2015-02.zst`, `RS_2015-02.zst`, …); other files are ignored with a warning.
        rules: the thresholds.
        scratch: folder for finished parts.
        workers: number of processes; None takes one per core, 1 works in this process.
        buckets: number of buckets of threads; None decides by the size of the dumps.
        max_reject_share: share of a dump's lines that may be unreadable.

    Raises:
        FileNotFoundError: if there is no month of comments.
        ValueError: if too many lines of a dump cannot be read.
    """
    dumps = find_dumps(files)
    job = Job(scratch / "reddit", rules, buckets or count_buckets(dumps))
    workers = workers or os.cpu_count() or 1
    extracted = _extract_all(job, dumps, workers, max_reject_share)
    assembled = _assemble_all(job, extracted, workers)
    return collect([one.summary for one in extracted], assembled)


def count_buckets(dumps: Sequence[Dump]) -> int:
    """Return the number of buckets for the size of the dumps, rounded up so that one more month seldom changes it."""
    wanted = -(-sum(dump.path.stat().st_size for dump in dumps) // _BUCKET_BYTES)
    step = 1 << max(0, wanted.bit_length() - 4)
    return min(max(_MIN_BUCKETS, -(-wanted // step) * step), _MAX_BUCKETS)


@dataclass(frozen=True)
class DumpSummary:
    """Counts of an extracted dump."""

    month: str
    file: str
    tally: Tally

    def to_json(self) -> str:
        return json.dumps([self.month, self.file, self.tally.lines, self.tally.removed, self.tally.rejects])

    @classmethod
    def from_json(cls, text: str) -> DumpSummary:
        month, file, lines, removed, rejects = json.loads(text)
        counts = Counter({Rule(rule): count for rule, count in removed.items()})
        return cls(month, file, Tally(lines, counts, [(line, Rule(rule), text) for line, rule, text in rejects]))

    def check(self, max_reject_share: float) -> None:
        """Raise ValueError if too many lines are unreadable."""
        unreadable, lines = self.tally.unreadable, self.tally.lines
        if unreadable.total() > max_reject_share * lines:
            reasons = ", ".join(f"{rule}: {count}" for rule, count in unreadable.most_common())
            first = "; ".join(f"line {line}, {rule}: {text[:60]!r}" for line, rule, text in self.tally.rejects[:3])
            raise ValueError(
                f"{unreadable.total()} of the {lines} lines of {self.file} cannot be read ({reasons}), more than "
                f"data_processing.max_reject_share = {max_reject_share} allows. The first are {first}. "
                "Fetch the dump again, or raise the limit."
            )

    def rejected_lines(self) -> pa.Table:
        place = {"month": self.month, "file": self.file}
        rows = [place | {"line": line, "reason": rule, "excerpt": text} for line, rule, text in self.tally.rejects]
        return pa.Table.from_pylist(rows, schema=REJECTED_LINES)


@dataclass(frozen=True)
class Extracted:
    """A folder with the batches of a dump; `index` holds the batch numbers of each bucket."""

    dump: Dump
    folder: Path
    summary: DumpSummary
    index: dict[int, list[int]]

    @classmethod
    def read(cls, dump: Dump, folder: Path) -> Extracted:
        index = json.loads((folder / "index.json").read_text())
        summary = DumpSummary.from_json((folder / "summary.json").read_text())
        return cls(dump, folder, summary, {int(bucket): numbers for bucket, numbers in index.items()})

    def parts(self, bucket: int) -> list[Part]:
        if bucket not in self.index:
            return []
        with pa.OSFile(str(self.folder / "batches.arrow")) as source:
            batches = pa.ipc.open_file(source)
            return [
                Part(self.dump.month, self.dump.path.name, batches.get_batch(number)) for number in self.index[bucket]
            ]


@dataclass(frozen=True)
class Job:
    """The rules and buckets of a run, and the folders of its finished parts."""

    scratch: Path
    rules: RedditRules
    buckets: int

    def extracted_folder(self, dump: Dump) -> Path:
        stat = dump.path.stat()
        fingerprint_inputs = {
            "dump": [str(dump.path), stat.st_size, stat.st_mtime],
            "rules": self.rules.model_dump(include={"blocked_subreddits", "min_body_words"}),
            "buckets": self.buckets,
        }
        return self.scratch / "extracted" / f"{dump.kind}_{dump.month}-{fingerprint(fingerprint_inputs, *_CODE)}"

    def assembled_folder(self, dumps: Sequence[Dump]) -> Path:
        fingerprint_inputs = {
            "extracted": [self.extracted_folder(dump).name for dump in dumps],
            "rules": self.rules.model_dump(),
            "lexicon": sorted(lexicon().items()),  # an installed NLTK resource may differ
        }
        return self.scratch / "assembled" / fingerprint(fingerprint_inputs, *_CODE)


def _extract_all(job: Job, dumps: Sequence[Dump], workers: int, max_reject_share: float) -> list[Extracted]:
    folders = {dump: job.extracted_folder(dump) for dump in dumps}
    sizes = {dump: dump.path.stat().st_size for dump in dumps if not folders[dump].is_dir()}
    # Large dumps first, so that workers finish at about the same time.
    tasks = [(dump, job.rules, job.buckets, folders[dump]) for dump in sorted(sizes, key=sizes.__getitem__)[::-1]]
    with DumpsBar(len(dumps), len(dumps) - len(tasks), sum(sizes.values())) as bar:
        for summary in run_tasks(extract_to, tasks, workers, bar.update):
            bar.finish_dump()
            summary.check(max_reject_share)
    extracted = [Extracted.read(dump, folders[dump]) for dump in dumps]
    for one in extracted:
        one.summary.check(max_reject_share)
    return extracted


@system_memory()
def extract_to(dump: Dump, rules: RedditRules, buckets: int, folder: Path, progress: Progress) -> DumpSummary:
    """Extract a dump into a folder that appears only when it is complete."""
    summary, index = DumpSummary(dump.month, dump.path.name, Tally()), dict[int, list[int]]()
    schema = KEYED_COMMENTS if dump.kind == "RC" else KEYED_SUBMISSIONS
    with atomic_folder(folder) as partial:
        with pa.OSFile(str(partial / "batches.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as batches:
            for number, keyed in enumerate(extract(dump, rules, buckets, summary.tally, progress)):
                batches.write_batch(keyed.batch)
                index.setdefault(keyed.bucket, []).append(number)
        (partial / "index.json").write_text(json.dumps(index))
        (partial / "summary.json").write_text(summary.to_json())
    return summary


def _assemble_all(job: Job, extracted: Sequence[Extracted], workers: int) -> list[Assembled]:
    folder = job.assembled_folder([one.dump for one in extracted])
    folders = [bucket_folder(folder, bucket) for bucket in range(job.buckets)]
    missing = [bucket for bucket in range(job.buckets) if not folders[bucket].is_dir()]
    with tqdm(total=job.buckets, initial=job.buckets - len(missing), desc="Reddit threads", unit="bucket") as bar:
        tasks = [(bucket, extracted, job.rules, folders[bucket]) for bucket in missing]
        for _ in run_tasks(assemble_to, tasks, workers, lambda *_: None):
            bar.update()
    return [read_assembled(folder) for folder in folders]


@system_memory()
def assemble_to(
    bucket: int, extracted: Sequence[Extracted], rules: RedditRules, folder: Path, progress: Progress
) -> int:
    """Assemble a bucket into a folder that appears only when it is complete."""
    comments, submissions = (
        [part for one in extracted if one.dump.kind == kind for part in one.parts(bucket)] for kind in ("RC", "RS")
    )
    save_assembled(assemble(comments, submissions, rules), folder)
    return bucket


def bucket_folder(folder: Path, bucket: int) -> Path:
    return folder / f"bucket-{bucket:05d}"


def save_assembled(assembled: Assembled, folder: Path) -> None:
    with atomic_folder(folder) as partial:
        pq.write_table(assembled.dialogues, partial / "dialogues.parquet")
        pq.write_table(assembled.rejected, partial / "rejected.parquet")
        (partial / "removed.json").write_text(removed_to_json(assembled.removed))


def read_assembled(folder: Path) -> Assembled:
    return Assembled(
        pq.read_table(folder / "dialogues.parquet"),
        pq.read_table(folder / "rejected.parquet"),
        removed_from_json((folder / "removed.json").read_text()),
    )


def removed_to_json(removed: Mapping[tuple[str, Rule], int]) -> str:
    return json.dumps([[month, rule, count] for (month, rule), count in removed.items()])


def removed_from_json(text: str) -> Counter[tuple[str, Rule]]:
    return Counter({(month, Rule(rule)): count for month, rule, count in json.loads(text)})


def collect(summaries: Sequence[DumpSummary], assembled: Sequence[Assembled]) -> RedditTables:
    """Return the tables of all months and buckets."""
    lines: Counter[str] = Counter()
    removed: Counter[tuple[str, Rule]] = Counter()
    for dump in summaries:
        lines[dump.month] += dump.tally.lines
        removed.update({(dump.month, rule): count for rule, count in dump.tally.removed.items()})
    for bucket in assembled:
        removed.update(bucket.removed)
    dialogues = pa.concat_tables([bucket.dialogues for bucket in assembled]).sort_by("dialogue_id")
    rejected = pa.concat_tables(
        [dump.rejected_lines() for dump in summaries] + [bucket.rejected for bucket in assembled]
    )
    in_order = rejected.sort_by([("month", "ascending"), ("file", "ascending"), ("line", "ascending")])
    logger.info("%d Reddit dialogues from %d lines of %d months", len(dialogues), lines.total(), len(lines))
    return RedditTables(
        from_arrow(dialogues.combine_chunks()), filter_report(lines, removed), from_arrow(in_order.combine_chunks())
    )
