"""What every reader of a corpus gives: dialogues with their labels as published, and what it left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from sage_dialog.corpora.compression import SUFFIXES, DamagedFileError
from sage_dialog.corpora.conversations import checked_text, file_form, read_records
from sage_dialog.corpora.rejects import InputDataError, Reject
from sage_dialog.dialogue import Dialogue, Message

SPLITS = ("train", "valid", "test")
HELD_OUT = ("valid", "test")
"""Splits that are evaluated on, and never trained on."""

HUMAN, SILVER = "human", "silver"
"""Sources of labels: a person, or a classifier."""

_FILE_SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}


@dataclass(frozen=True)
class Label:
    """The value of a label as published, and who gave it."""

    value: str
    source: str = HUMAN


@dataclass(frozen=True)
class LabelledDialogue:
    """A dialogue as published: a role may speak several times in a row.

    Attributes:
        where: file, and place in it.
        labels: those of the whole dialogue by name.
        message_labels: those of each message by name.
    """

    dialogue: Dialogue
    split: str
    where: str
    labels: Mapping[str, Label]
    message_labels: tuple[Mapping[str, Label], ...]


@dataclass
class Rejects:
    """What a reader left out: dialogues, and labels of dialogues that it kept."""

    dialogues: list[Reject] = field(default_factory=list)
    labels: list[Reject] = field(default_factory=list)


def split_of(name: str) -> str | None:
    """Return the split that a file's name begins with, as `train.jsonl`; None where it names none."""
    return _FILE_SPLITS.get(PurePath(name).name.partition(".")[0].lower())


def named(files: Mapping[str, Path], *forms: str) -> dict[str, Path]:
    """Return the files of these suffixes, compressed or not."""
    return {name: path for name, path in sorted(files.items()) if file_form(name) in forms}


def is_compressed(path: Path) -> bool:
    return path.suffix in SUFFIXES


def json_records(name: str, path: Path, rejects: Rejects) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the record of each JSON object in a file; others are rejected, as is what follows a damage.

    A `.json` file is one list; any other holds one record on each line.
    """
    form = ".json" if file_form(name) == ".json" else ".parquet" if file_form(name) == ".parquet" else ".jsonl"
    try:
        for where, record in read_records(name, path, form):
            if isinstance(record, dict):
                yield where, record
            else:
                rejects.dialogues.append(Reject(where, "not a JSON object"))
    except DamagedFileError as error:
        raise InputDataError(f"{error}. Fetch it again.") from error


def message(role: str, text: Any) -> Message:
    """Return a message with its text on one line's spacing. Raises ValueError if it is no text, or empty."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an utterance without text")
    return Message(role, " ".join(checked_text(text).split()))


def text_labels(record: Mapping[str, Any], *names: str) -> dict[str, Label]:
    """Return the values of a record under these names as labels by people; absent and empty ones are no labels."""
    values = {name: record.get(name) for name in names}
    return {
        name: Label(" ".join(checked_text(str(value)).split()))
        for name, value in values.items()
        if isinstance(value, str | int | float) and str(value).strip()
    }
