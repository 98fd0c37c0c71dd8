"""A run over some dumps: the folders of its finished parts, and the tables made of them, whatever the executor."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from sage_dialog.config import RedditRules
from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.hashing import fingerprint
from sage_dialog.core.sentiment import lexicon
from sage_dialog.core.tables import DataFrame, from_arrow
from sage_dialog.corpora.reddit.assemble import Assembled
from sage_dialog.corpora.reddit.dumps import Dump, find_dumps
from sage_dialog.corpora.reddit.extract import Bucket
from sage_dialog.corpora.reddit.rules import filter_report
from sage_dialog.corpora.reddit.tally import MAX_KEPT_REJECTS, Limits, Tally
from sage_dialog.corpora.reddit.text import normalise
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.schemas import REJECTED_LINES

logger = logging.getLogger(__name__)

_CODE = ("corpora", "config", "core", "schemas")


class RedditTables(NamedTuple):
    """Tables of `schemas.DIALOGUES`, `schemas.FILTER_REPORT` and `schemas.REJECTED_LINES`."""

    dialogues: DataFrame
    filter_report: DataFrame
    rejected_lines: DataFrame


@dataclass(frozen=True)
class Job:
    """The dumps and rules of a run, and the folders of its finished parts."""

    dumps: Sequence[Dump]
    rules: RedditRules
    scratch: Path

    @classmethod
    def create(cls, files: Mapping[str, Path], rules: RedditRules, scratch: Path, limits: Limits) -> Job:
        """Return the job for the dumps among the files.

        Raises:
            InputDataError: if there is no month of comments, or one without submissions that `limits` requires.
        """
        dumps = find_dumps(files)
        check_months(dumps, rules, limits)
        if never := [word for word in rules.blocked_words if normalise(word) != word]:
            logger.warning(
                "No text has these blocked_words: %s; write them with the letters, digits and marks that texts keep "
                "(docs/reddit.md)",
                ", ".join(map(repr, never)),
            )
        return cls(dumps, rules, scratch / "reddit")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folders of finished parts until the block ends, or the process does.

        Raises:
            ValueError: if another process holds the lock.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(self.scratch.with_name(f"{self.scratch.name}.lock")).acquire(timeout=0)
        except Timeout as error:
            raise ValueError(
                f"another process reads Reddit dumps with the same scratch folder, {self.scratch}; wait for it, or set "
                "another one (scratch)"
            ) from error
        with lock:
            yield

    def extracted_folder(self, dump: Dump) -> Path:
        stat = dump.path.stat()
        fingerprint_inputs = {
            "dump": [str(dump.path), stat.st_size, stat.st_mtime],
            "rules": self.rules.model_dump(include={"blocked_subreddits", "min_body_words"}),
        }
        return self.scratch / "extracted" / f"{dump.kind}_{dump.month}-{fingerprint(fingerprint_inputs, *_CODE)}"

    def assembled_folder(self) -> Path:
        fingerprint_inputs = {
            "extracted": [self.extracted_folder(dump).name for dump in self.dumps],
            "rules": self.rules.model_dump(),
            "lexicon": sorted(lexicon().items()),  # an installed NLTK resource may differ
        }
        return self.scratch / "assembled" / fingerprint(fingerprint_inputs, *_CODE)

    def bucket_folders(self, buckets: Sequence[Bucket]) -> list[Path]:
        folder = self.assembled_folder()
        return [folder / f"threads-{low:05d}-{high:05d}" for low, high in buckets]


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Yield the path of a file of a finished part; an error in the block names it."""
    try:
        yield path
    except (OSError, ValueError) as error:  # Arrow's errors are among them
        raise ValueError(
            f"{path} cannot be read: {error}. Remove the folder {path.parent} and run the same command again."
        ) from error


def check_months(dumps: Sequence[Dump], rules: RedditRules, limits: Limits) -> None:
    """Log which months lack their submissions or their comments; raise InputDataError if `limits` requires them."""
    months = {kind: [dump.month for dump in dumps if dump.kind == kind] for kind in ("RC", "RS")}
    absent = [month for month in months["RC"] if month not in months["RS"]]
    if absent and rules.min_submission_comments > 0:
        lost = (
            f"There is no {', '.join(f'RS_{month}' for month in absent)}: all comments in threads that began in "
            f"{'this month' if len(absent) == 1 else 'these months'} are lost to the rule no_submission."
        )
        if limits.require_submissions:
            raise InputDataError(
                f"{lost} Fetch the submissions, or set min_submission_comments of the rule set to 0 to read threads "
                "without them, or accept the loss by data_processing.require_submissions=false."
            )
        logger.warning(lost)
    if gaps := [month for month in _between(months["RC"][0], months["RC"][-1]) if month not in months["RC"]]:
        logger.warning(
            "There is no %s: dialogues that cross a missing month break off there",
            ", ".join(f"RC_{month}" for month in gaps),
        )


def _between(first: str, last: str) -> list[str]:
    """Return the months, as YYYY-MM, from the first to the last."""
    start, end = (12 * int(month[:4]) + int(month[5:]) - 1 for month in (first, last))
    return [f"{number // 12:04d}-{number % 12 + 1:02d}" for number in range(start, end + 1)]


def save_assembled(assembled: Assembled, folder: Path) -> None:
    with atomic_folder(folder) as partial:
        pq.write_table(assembled.dialogues, partial / "dialogues.parquet")
        pq.write_table(assembled.rejected, partial / "rejected.parquet")
        (partial / "removed.json").write_text(removed_to_json(assembled.removed))


def removed_to_json(removed: Mapping[tuple[str, str], int]) -> str:
    return json.dumps([*removed.items()])


def removed_from_json(text: str) -> Counter[tuple[str, str]]:
    return Counter({(month, rule): count for (month, rule), count in json.loads(text)})


def collect(tallies: Sequence[Tally], folders: Sequence[Path]) -> RedditTables:
    """Return the tables of all months, and of the buckets in these folders; log what is lost of the dumps."""
    _log_losses(tallies)
    lines: Counter[str] = Counter()
    removed: Counter[tuple[str, str]] = Counter()
    for tally in tallies:
        lines[tally.month] += tally.lines
        removed.update({(tally.month, rule): count for rule, count in tally.removed.items()})
    for folder in folders:
        with reading(folder / "removed.json") as file:
            removed.update(removed_from_json(file.read_text()))
    dialogues = pa.concat_tables([_read_table(folder / "dialogues.parquet") for folder in folders])
    unreadable = pa.Table.from_pylist([row for tally in tallies for row in tally.rejects], schema=REJECTED_LINES)
    rejected = pa.concat_tables([unreadable, *(_read_table(folder / "rejected.parquet") for folder in folders)])
    by_place = [(column, "ascending") for column in ("month", "file", "line")]
    logger.info("%d Reddit dialogues from %d lines of %d months", len(dialogues), lines.total(), len(lines))
    return RedditTables(
        from_arrow(dialogues.sort_by("dialogue_id").combine_chunks()),
        filter_report(lines, removed),
        _keep_first_rejects(from_arrow(rejected.sort_by(by_place).combine_chunks())),
    )


def _keep_first_rejects(rejected: DataFrame) -> DataFrame:
    """Return the first rows of each dump and reason, of a table in the order of the dumps."""
    return rejected.groupby(["file", "reason"]).head(MAX_KEPT_REJECTS).reset_index(drop=True)


def _read_table(path: Path) -> pa.Table:
    with reading(path) as file:
        return pq.read_table(file)


def _log_losses(tallies: Sequence[Tally]) -> None:
    unreadable: Counter[str] = Counter()
    for tally in tallies:
        unreadable += tally.unreadable()
        if damage := tally.damage():
            logger.warning("%s: fetch the dump again", damage)
        elif not tally.lines:
            logger.warning("%s has no line: remove it, or fetch it again", tally.file)
    if unreadable:
        logger.warning(
            "%d of %d lines cannot be read (%s), most of them in %s: see rejected_lines",
            unreadable.total(),
            sum(tally.lines for tally in tallies),
            ", ".join(f"{rule}: {count}" for rule, count in unreadable.most_common()),
            max(tallies, key=lambda tally: tally.unreadable().total()).file,
        )
