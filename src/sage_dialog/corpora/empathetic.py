"""Situations of EmpatheticDialogues: the prompts that open dialogues of self-play and evaluation (paper §3.4, §4).

The files are the original CSVs, plain or in the published archive: eight columns, one row per utterance, commas in
texts written `_comma_`. Some rows have a ninth column of candidate replies, and some open a quote and never close it,
which makes a CSV reader swallow the rows that follow. So each line is parsed by itself.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from sage_dialog.config import SameText
from sage_dialog.corpora.compression import SUFFIXES, DamagedFileError, File, read_blocks, read_lines
from sage_dialog.corpora.rejects import InputDataError, Reject, log_rejects

logger = logging.getLogger(__name__)

COLUMNS = ("conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance", "selfeval", "tags")
SPLITS = ("train", "valid", "test")
EMOTIONS = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring",
    "confident", "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful",
    "furious", "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely",
    "nostalgic", "prepared", "proud", "sad", "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip
_ARCHIVE = re.compile(r".+(?:\.tgz|\.tar(?:\.gz|\.xz|\.bz2|\.zst)?)")


@dataclass(frozen=True)
class Situation:
    """The prompt of a conversation. `situation_id` is its conversation id, unique over all splits."""

    situation_id: str
    split: str
    emotion: str
    text: str


@dataclass(frozen=True)
class Row:
    """One line: an utterance with the emotion and the prompt of its conversation."""

    conv_id: str
    number: int
    emotion: str
    prompt: str
    speaker: int
    utterance: str


@dataclass(frozen=True)
class _Member:
    """A file in an archive, read in memory."""

    archive: Path
    place: str
    content: bytes

    @property
    def name(self) -> str:
        return PurePosixPath(self.place).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.place).suffix

    def open(self, mode: Literal["rb"], /) -> IO[bytes]:
        return io.BytesIO(self.content)

    def __str__(self) -> str:
        return f"{self.archive} ({self.place})"


def read_situations(files: Mapping[str, Path], same_text: SameText = "first") -> tuple[list[Situation], list[Reject]]:
    """Return one situation per conversation, by split (train, valid, test) and in the order of the file.

    Rejected are malformed lines, labels other than the 32 emotions, rows that contradict the first row of their
    conversation, and duplicates. Of conversations with the same text (in any case and spacing) the first one is kept,
    also if labels differ, since the dialogues would open alike. `train` loses ids and texts of `valid` and `test`,
    `valid` those of `test`.

    Args:
        same_text: "all" keeps conversations with the same text, also of other splits.
        files: by name, `train.csv`, `valid.csv`, `test.csv`, plain or as .gz, .xz, .bz2, .zst, or archives (.tar,
            .tar.gz, …) that contain them in any folder; splits may be missing; other files are ignored.

    Raises:
        InputDataError: if there is no split, a split has two files, a file has other columns, or an archive is damaged.
    """
    ids: dict[str, str] = {}
    texts: dict[str, str] = {}
    repeated: Counter[tuple[str, str]] = Counter()
    situations: list[Situation] = []
    rejects: list[Reject] = []
    splits = _find_splits(files)
    for split in reversed(SPLITS):  # held-out splits keep their texts
        if split in splits:
            rows = (
                (where, Situation(row.conv_id, split, row.emotion, row.prompt))
                for where, row in _rows(splits[split], rejects)
            )
            situations = [*_new_situations(rows, ids, texts, repeated, rejects, same_text), *situations]
    log_rejects(logger, "EmpatheticDialogues", rejects)
    for (split, earlier), count in repeated.items():
        note = "also in" if split == earlier else "also in the held-out split"
        logger.warning("EmpatheticDialogues: %d %s situations have a text that is %s %s", count, split, note, earlier)
    return situations, rejects


def read_rows(files: Mapping[str, Path], rejects: list[Reject]) -> Iterator[tuple[str, Iterator[tuple[str, Row]]]]:
    """Yield each split and its rows with their places; malformed lines are added to `rejects`.

    Args, Raises: as `read_situations`.
    """
    for split, file in sorted(_find_splits(files).items(), key=lambda each: SPLITS.index(each[0])):
        yield split, _rows(file, rejects)


def _find_splits(files: Mapping[str, Path]) -> dict[str, Path | _Member]:
    names = {f"{split}.csv{suffix}": split for split in SPLITS for suffix in ("", *SUFFIXES)}
    found: dict[str, Path | _Member] = {}
    for name, file in _with_members(files):
        if name not in names:
            logger.warning("%s is no EmpatheticDialogues split (train.csv, valid.csv, test.csv); ignored", file)
        elif names[name] in found:
            raise InputDataError(f"{found[names[name]]} and {file} are the same split; remove one of them")
        else:
            found[names[name]] = file
    if not found:
        raise InputDataError(
            f"No EmpatheticDialogues split among {sorted(files) or 'no files'}: expected train.csv, valid.csv, test.csv"
        )
    if absent := [split for split in SPLITS if split not in found]:
        logger.warning("EmpatheticDialogues has no %s split here", " and no ".join(absent))
    return found


def _with_members(files: Mapping[str, Path]) -> Iterator[tuple[str, Path | _Member]]:
    """Yield names and files, with the members of archives."""
    for name, path in sorted(files.items()):
        if _ARCHIVE.fullmatch(name):
            yield from ((member.name, member) for member in _members(path))
        else:
            yield name, path


def _members(archive: Path) -> Iterator[_Member]:
    try:
        text = io.BytesIO(b"".join(read_blocks(archive, 1 << 20)))
        with tarfile.open(fileobj=text, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    level = logging.DEBUG if member.isdir() else logging.WARNING
                    logger.log(level, "%s (%s) is no file; ignored", archive, member.name)
                elif (content := tar.extractfile(member)) is not None:
                    yield _Member(archive, member.name, content.read())
    except (DamagedFileError, tarfile.TarError) as error:
        raise InputDataError(f"{archive} cannot be read to its end: {error}. Fetch it again.") from error


def _new_situations(
    rows: Iterator[tuple[str, Situation]],
    ids: dict[str, str],
    texts: dict[str, str],
    repeated: Counter[tuple[str, str]],
    rejects: list[Reject],
    same_text: SameText,
) -> Iterator[Situation]:
    """Yield the first row of each new conversation.

    Args:
        ids: the split of each conversation before, by id.
        texts: the split of the first conversation with a text.
        repeated: counts the kept conversations with an earlier text, by their split and that of the first one.
    """
    first: dict[str, Situation] = {}
    for where, row in rows:
        key = row.text.casefold()
        if (seen := first.setdefault(row.situation_id, row)) is not row:
            if seen != row:
                rejects.append(Reject(where, "another emotion or prompt than its conversation's first row"))
        elif split := ids.get(row.situation_id):
            rejects.append(Reject(where, f"{row.split} conversation with the id of an earlier one in {split}"))
        elif (split := texts.get(key)) and same_text == "first":
            rejects.append(Reject(where, f"{row.split} situation with the text of an earlier one in {split}"))
        else:
            ids[row.situation_id] = row.split
            if split:
                repeated[row.split, split] += 1
            texts.setdefault(key, row.split)
            yield row


def _rows(path: Path | _Member, rejects: list[Reject]) -> Iterator[tuple[str, Row]]:
    """Yield the place and the content of each row."""
    number = 0
    try:
        for number, line in enumerate(read_lines(path), start=1):
            if number == 1:
                _check_header(path, line)
                continue
            where = f"{path.name}:{number}"
            try:
                yield where, _row(line)
            except ValueError as error:
                rejects.append(Reject(where, str(error)))
    except DamagedFileError as error:
        rejects.append(Reject(f"{path.name}:{number + 1}", str(error)))
    if number == 0:
        raise InputDataError(f"{path} is no EmpatheticDialogues file: none of its lines is readable")


def _check_header(path: File, line: bytes) -> None:
    header = line.decode("utf-8-sig", "replace").strip()
    if header != ",".join(COLUMNS):
        raise InputDataError(f"{path} is no EmpatheticDialogues file: its first line is {header[:120]!r}")


def _row(line: bytes) -> Row:
    """Raises ValueError with the reason where the line is no row of the table."""
    try:
        text = line.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    fields, plain = next(csv.reader([text]), []), text.split(",")
    if len(fields) < len(COLUMNS):
        fields = plain  # an unclosed quote is a plain character
    if len(fields) < len(COLUMNS):
        raise ValueError(f"fewer than {len(COLUMNS)} columns")
    conv_id, utterance_idx, emotion, prompt, speaker_idx = (field.strip() for field in fields[:5])
    if not (conv_id and utterance_idx.isdecimal() and speaker_idx.isdecimal()):
        raise ValueError("columns out of place (a comma not written _comma_?)")
    if emotion not in EMOTIONS:
        raise ValueError("a label that is none of the 32 emotions")
    if not (situation := " ".join(prompt.replace("_comma_", ",").split())):
        raise ValueError("an empty prompt")
    # A quote at the start of an utterance is its own; only a comma that is not written _comma_ needs the CSV's quotes.
    utterance = plain[5] if len(plain) in (len(COLUMNS), len(COLUMNS) + 1) else fields[5]
    return Row(conv_id, int(utterance_idx), emotion, situation, int(speaker_idx), utterance.replace("_comma_", ","))
