"""EmpatheticDialogues CSVs become situations: the prompts that open a played dialogue (paper §3.4, §4).

The files are the original ones: eight columns, commas inside text written `_comma_`, one row an utterance.
They are not quite CSV: some rows carry a ninth column of candidate replies, and some open a quote that is
never closed, behind which a CSV reader swallows the rows that follow. So each line is read by itself.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sage_dialog.corpora.compression import SUFFIXES, DamagedFileError, read_lines
from sage_dialog.corpora.set_aside import SetAside, log_set_aside

logger = logging.getLogger(__name__)

COLUMNS = ("conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance", "selfeval", "tags")
SPLITS = ("train", "valid", "test")
EMOTIONS = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring",
    "confident", "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful",
    "furious", "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely",
    "nostalgic", "prepared", "proud", "sad", "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """One conversation's prompt. `situation_id` is its conversation id, unique over all splits."""

    situation_id: str
    split: str
    emotion: str
    text: str


class _Row(NamedTuple):
    where: str
    conv_id: str
    emotion: str
    text: str


def read_situations(files: Mapping[str, Path]) -> tuple[list[Situation], list[SetAside]]:
    """One situation for each conversation, by split (train, valid, test) and in the order of the file.

    Set aside are lines that are malformed, labels that are none of the 32 emotions, rows that contradict
    the first row of their conversation, and duplicates: of the conversations of a split that have the same
    text (in any case and spacing), the first stays, also where labels differ, since the opening of the
    played dialogue would be the same. What stands in a held-out split is set aside from `train`, and what
    stands in `test` from `valid`, be it the text or the conversation id.

    Args:
        files: `train.csv`, `valid.csv`, `test.csv` by name, plain or as .gz, .xz, .bz2, .zst; not all need
            be there; other files are ignored.

    Raises:
        FileNotFoundError: if no split is there.
        ValueError: if a split is there twice, or a file has other columns.
    """
    taken_ids: dict[str, str] = {}
    taken_texts: dict[str, str] = {}
    situations: dict[str, list[Situation]] = {}
    set_aside: list[SetAside] = []
    splits = _find_splits(files)
    for split in reversed(SPLITS):  # held-out splits take their texts first
        if split in splits:
            rows = _rows(splits[split], set_aside)
            situations[split] = list(_new_situations(split, rows, taken_ids, taken_texts, set_aside))
    log_set_aside(logger, "EmpatheticDialogues", set_aside)
    return [situation for split in SPLITS for situation in situations.get(split, [])], set_aside


def _find_splits(files: Mapping[str, Path]) -> dict[str, Path]:
    names = {f"{split}.csv{suffix}": split for split in SPLITS for suffix in ("", *SUFFIXES)}
    found: dict[str, Path] = {}
    for name, path in sorted(files.items()):
        if name not in names:
            logger.warning("%s is no EmpatheticDialogues split (train.csv, valid.csv, test.csv); ignored", name)
        elif names[name] in found:
            raise ValueError(f"{found[names[name]]} and {path} are the same split; remove one of them")
        else:
            found[names[name]] = Path(path)
    if not found:
        raise FileNotFoundError(
            f"no EmpatheticDialogues split among {sorted(files) or 'no files'}: expected train.csv, valid.csv, test.csv"
        )
    return found


def _new_situations(
    split: str, rows: Iterator[_Row], ids: dict[str, str], texts: dict[str, str], set_aside: list[SetAside]
) -> Iterator[Situation]:
    """The first row of each conversation that nobody has taken; `ids` and `texts` hold the split that did."""
    first: dict[str, _Row] = {}
    for row in rows:
        seen = first.setdefault(row.conv_id, row)
        if seen is not row:
            if (seen.emotion, seen.text) != (row.emotion, row.text):
                set_aside.append(SetAside(row.where, "another emotion or prompt than its conversation's first row"))
            continue
        key = " ".join(row.text.casefold().split())
        if row.conv_id in ids:
            reason = f"{split} conversation with the id of an earlier one in {ids[row.conv_id]}"
            set_aside.append(SetAside(row.where, reason))
        elif key in texts:
            set_aside.append(SetAside(row.where, f"{split} situation with the text of an earlier one in {texts[key]}"))
        else:
            ids[row.conv_id] = texts[key] = split
            yield Situation(row.conv_id, split, row.emotion, row.text)


def _rows(path: Path, set_aside: list[SetAside]) -> Iterator[_Row]:
    number = 0
    try:
        for number, line in enumerate(read_lines(path), start=1):
            if number == 1:
                _check_header(path, line)
                continue
            row = _row(f"{path.name}:{number}", line)
            if isinstance(row, SetAside):
                set_aside.append(row)
            else:
                yield row
    except DamagedFileError as error:
        set_aside.append(SetAside(f"{path.name}:{number + 1}", str(error)))
    if number == 0:
        raise ValueError(f"{path} is no EmpatheticDialogues file: not one line of it can be read")


def _check_header(path: Path, line: bytes) -> None:
    header = line.decode("utf-8-sig", "replace").strip()
    if header != ",".join(COLUMNS):
        raise ValueError(f"{path} is no EmpatheticDialogues file: its first line is {header[:120]!r}")


def _row(where: str, line: bytes) -> _Row | SetAside:
    try:
        text = line.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        return SetAside(where, "not UTF-8")
    fields = next(csv.reader([text]), [])
    if len(fields) < len(COLUMNS):
        fields = text.split(",")  # a quote that is never closed is a character like any other
    if len(fields) < len(COLUMNS):
        return SetAside(where, f"fewer than {len(COLUMNS)} columns")
    conv_id, utterance_idx, emotion, prompt, speaker_idx = (field.strip() for field in fields[:5])
    if not (conv_id and utterance_idx.isdecimal() and speaker_idx.isdecimal()):
        return SetAside(where, "columns out of place (a comma not written _comma_?)")
    if emotion not in EMOTIONS:
        return SetAside(where, "a label that is none of the 32 emotions")
    situation = " ".join(prompt.replace("_comma_", ",").split())
    return _Row(where, conv_id, emotion, situation) if situation else SetAside(where, "an empty prompt")
