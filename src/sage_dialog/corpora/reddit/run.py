"""From raw months to tables: the dumps are extracted, then the buckets assembled, each finished piece kept.

Pieces are kept in the scratch folder under a fingerprint of all that decides them. Killed at any moment, the next
run takes up the pieces that are whole; a month added later is all that is extracted then.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from sage_dialog.corpora.reddit.assemble import Assembled, assemble
from sage_dialog.corpora.reddit.dumps import Dump, find_dumps
from sage_dialog.corpora.reddit.extract import KEYED_COMMENTS, KEYED_SUBMISSIONS, extract
from sage_dialog.corpora.reddit.funnel import filter_report
from sage_dialog.corpora.reddit.processes import DumpsBar, carried_out, system_memory
from sage_dialog.corpora.reddit.reading import Tally
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.corpora.reddit.threads import Part
from sage_dialog.schemas import REJECTED_LINES

logger = logging.getLogger(__name__)

# Compressed bytes of dumps that make a bucket: some 60,000 comments, which assemble in less than it takes to extract.
# Of all of Reddit there are no more buckets than this, since batches of a few comments would be slow; they are larger.
_BUCKET_BYTES = 8 << 20
_FEWEST_BUCKETS, _MOST_BUCKETS = 8, 4096
_CODE = ("corpora", "config", "core", "schemas")


class RedditTables(NamedTuple):
    """Tables of `schemas.DIALOGUES`, `schemas.FILTER_REPORT` and `schemas.REJECTED_LINES`."""

    dialogues: pa.Table
    filter_report: pa.Table
    rejected_lines: pa.Table


def read_dialogues(
    files: Mapping[str, Path],
    rules: RedditRules,
    *,
    scratch: Path,
    workers: int | None = None,
    buckets: int | None = None,
    max_reject_share: float = 1.0,
) -> RedditTables:
    """Dialogues of the dumps by the DialoGPT recipe and the paper's filters (paper §3.1).

    The tables depend on files and rules alone.

    Args:
        files: dumps by file name (`RC_2015-02.zst`, `RS_2015-02.zst`, …); other files are ignored with a warning.
        rules: the thresholds.
        scratch: folder for finished pieces.
        workers: processes; None takes one for each core, 1 works in this process.
        buckets: into how many pieces threads are dealt; None decides by the size of the dumps.
        max_reject_share: share of a dump's lines that may be unreadable.

    Raises:
        FileNotFoundError: if there is no month of comments.
        ValueError: if too many lines of a dump cannot be read.
    """
    dumps = find_dumps(files)
    work = Work(scratch / "reddit", rules, buckets or buckets_for(dumps))
    workers = workers or os.cpu_count() or 1
    extracted = _extract_all(work, dumps, workers, max_reject_share)
    assembled = _assemble_all(work, extracted, workers)
    return gather([one.told for one in extracted], assembled)


def buckets_for(dumps: Sequence[Dump]) -> int:
    """As many as the size of the dumps asks for, rounded up to four binary digits: a month more seldom changes it."""
    wanted = -(-sum(dump.path.stat().st_size for dump in dumps) // _BUCKET_BYTES)
    step = 1 << max(0, wanted.bit_length() - 4)
    return min(max(_FEWEST_BUCKETS, -(-wanted // step) * step), _MOST_BUCKETS)


@dataclass(frozen=True)
class Told:
    """What became of the lines of a dump that was extracted."""

    month: str
    file: str
    tally: Tally

    def to_json(self) -> str:
        return json.dumps([self.month, self.file, self.tally.lines, self.tally.removed, self.tally.rejects])

    @classmethod
    def from_json(cls, text: str) -> Told:
        month, file, lines, removed, rejects = json.loads(text)
        counts = Counter({Rule(rule): count for rule, count in removed.items()})
        return cls(month, file, Tally(lines, counts, [(line, Rule(rule), said) for line, rule, said in rejects]))

    def check(self, max_reject_share: float) -> None:
        """Raises ValueError where too many of the lines could not be read."""
        unreadable, lines = self.tally.unreadable, self.tally.lines
        if unreadable.total() > max_reject_share * lines:
            reasons = ", ".join(f"{rule}: {count}" for rule, count in unreadable.most_common())
            first = "; ".join(f"line {line}, {rule}: {said[:60]!r}" for line, rule, said in self.tally.rejects[:3])
            raise ValueError(
                f"{unreadable.total()} of the {lines} lines of {self.file} cannot be read ({reasons}), more than "
                f"data_processing.max_reject_share = {max_reject_share} allows. The first are {first}. "
                "Fetch the dump again, or raise the limit."
            )

    def rejected(self) -> pa.Table:
        place = {"month": self.month, "file": self.file}
        rows = [place | {"line": line, "reason": rule, "excerpt": said} for line, rule, said in self.tally.rejects]
        return pa.Table.from_pylist(rows, schema=REJECTED_LINES)


@dataclass(frozen=True)
class Extracted:
    """A dump whose batches lie in a folder; `index` gives the numbers of a bucket's batches."""

    dump: Dump
    folder: Path
    told: Told
    index: dict[int, list[int]]

    @classmethod
    def read(cls, dump: Dump, folder: Path) -> Extracted:
        index = json.loads((folder / "index.json").read_text())
        told = Told.from_json((folder / "told.json").read_text())
        return cls(dump, folder, told, {int(bucket): numbers for bucket, numbers in index.items()})

    def parts(self, bucket: int) -> list[Part]:
        if bucket not in self.index:
            return []
        with pa.OSFile(str(self.folder / "batches.arrow")) as source:
            batches = pa.ipc.open_file(source)
            return [
                Part(self.dump.month, self.dump.path.name, batches.get_batch(number)) for number in self.index[bucket]
            ]


@dataclass(frozen=True)
class Work:
    """What is to be done, and where its finished pieces are."""

    scratch: Path
    rules: RedditRules
    buckets: int

    def extracted_folder(self, dump: Dump) -> Path:
        state = dump.path.stat()
        fingerprint_inputs = {
            "dump": [str(dump.path), state.st_size, state.st_mtime],
            "rules": self.rules.model_dump(include={"blocked_subreddits", "min_body_words"}),
            "buckets": self.buckets,
        }
        return self.scratch / "extracted" / f"{dump.kind}_{dump.month}-{fingerprint(fingerprint_inputs, *_CODE)}"

    def assembled_folder(self, dumps: Sequence[Dump]) -> Path:
        fingerprint_inputs = {
            "extracted": [self.extracted_folder(dump).name for dump in dumps],
            "rules": self.rules.model_dump(),
            "lexicon": sorted(lexicon().items()),  # NLTK's own, where it is installed, may be another
        }
        return self.scratch / "assembled" / fingerprint(fingerprint_inputs, *_CODE)


def _extract_all(work: Work, dumps: Sequence[Dump], workers: int, max_reject_share: float) -> list[Extracted]:
    folders = {dump: work.extracted_folder(dump) for dump in dumps}
    sizes = {dump: dump.path.stat().st_size for dump in dumps if not folders[dump].is_dir()}
    # The big ones first: the last to begin is soon done.
    tasks = [(dump, work.rules, work.buckets, folders[dump]) for dump in sorted(sizes, key=sizes.__getitem__)[::-1]]
    with DumpsBar(len(dumps), len(dumps) - len(tasks), sum(sizes.values())) as bar:
        for told in carried_out(extract_to, tasks, workers, bar.tell):
            bar.finished()
            told.check(max_reject_share)
    extracted = [Extracted.read(dump, folders[dump]) for dump in dumps]
    for one in extracted:
        one.told.check(max_reject_share)
    return extracted


@system_memory()
def extract_to(
    dump: Dump, rules: RedditRules, buckets: int, folder: Path, progress: Callable[[int, int], None]
) -> Told:
    """Extracts a dump into a folder that is there only when it is whole."""
    told, index = Told(dump.month, dump.path.name, Tally()), dict[int, list[int]]()
    schema = KEYED_COMMENTS if dump.kind == "RC" else KEYED_SUBMISSIONS
    with atomic_folder(folder) as partial:
        with pa.OSFile(str(partial / "batches.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as batches:
            for number, keyed in enumerate(extract(dump, rules, buckets, told.tally, progress)):
                batches.write_batch(keyed.batch)
                index.setdefault(keyed.bucket, []).append(number)
        (partial / "index.json").write_text(json.dumps(index))
        (partial / "told.json").write_text(told.to_json())
    return told


def _assemble_all(work: Work, extracted: Sequence[Extracted], workers: int) -> list[Assembled]:
    folder = work.assembled_folder([one.dump for one in extracted])
    folders = [bucket_folder(folder, bucket) for bucket in range(work.buckets)]
    missing = [bucket for bucket in range(work.buckets) if not folders[bucket].is_dir()]
    with tqdm(total=work.buckets, initial=work.buckets - len(missing), desc="Reddit threads", unit="bucket") as bar:
        tasks = [(bucket, extracted, work.rules, folders[bucket]) for bucket in missing]
        for _ in carried_out(assemble_to, tasks, workers, lambda *_: None):
            bar.update()
    return [read_assembled(folder) for folder in folders]


@system_memory()
def assemble_to(
    bucket: int, extracted: Sequence[Extracted], rules: RedditRules, folder: Path, progress: Callable[..., None]
) -> int:
    """Assembles a bucket into a folder that is there only when it is whole."""
    comments, submissions = (
        [part for one in extracted if one.dump.kind == kind for part in one.parts(bucket)] for kind in ("RC", "RS")
    )
    keep_assembled(assemble(comments, submissions, rules), folder)
    return bucket


def bucket_folder(folder: Path, bucket: int) -> Path:
    return folder / f"bucket-{bucket:05d}"


def keep_assembled(assembled: Assembled, folder: Path) -> None:
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


def gather(told: Sequence[Told], assembled: Sequence[Assembled]) -> RedditTables:
    """The tables of all months and buckets together."""
    lines: Counter[str] = Counter()
    removed: Counter[tuple[str, Rule]] = Counter()
    for dump in told:
        lines[dump.month] += dump.tally.lines
        removed.update({(dump.month, rule): count for rule, count in dump.tally.removed.items()})
    for bucket in assembled:
        removed.update(bucket.removed)
    dialogues = pa.concat_tables([bucket.dialogues for bucket in assembled]).sort_by("dialogue_id")
    rejected = pa.concat_tables([dump.rejected() for dump in told] + [bucket.rejected for bucket in assembled])
    in_order = rejected.sort_by([("month", "ascending"), ("file", "ascending"), ("line", "ascending")])
    logger.info("%d Reddit dialogues from %d lines of %d months", len(dialogues), lines.total(), len(lines))
    return RedditTables(dialogues.combine_chunks(), filter_report(lines, removed), in_order.combine_chunks())
