"""EmpatheticDialogues as dialogues (Rashkin et al. 2019), with the labels of EmpatheticIntents (Welivita and Pu 2020).

The emotion of a conversation is the speaker's own choice. EmpatheticIntents labels every utterance by a classifier: one
of the 32 emotions, neutral, or one of eight intents. Two forms of it are read: as published, CSV files with the columns
Dialog_ID, Type, Actor, Text, Label, in the order of the conversation; and tab-separated lines of conversation, row (0
is the situation), actor and label.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from sage_dialog.corpora.compression import DamagedFileError, read_lines
from sage_dialog.corpora.conversations import file_form
from sage_dialog.corpora.empathetic import Row, read_rows
from sage_dialog.corpora.labelled.records import SILVER, Label, LabelledDialogue, Rejects, message
from sage_dialog.corpora.rejects import InputDataError, Reject
from sage_dialog.dialogue import Dialogue

logger = logging.getLogger(__name__)

_COLUMNS = ["Dialog_ID", "Type", "Actor", "Text", "Label"]
SilverLabels = dict[str, list[str]]
"""The labels of the utterances of each conversation, in their order."""


def read_empathetic(
    files: Mapping[str, Path], intents: Mapping[str, Path], rejects: Rejects
) -> Iterator[LabelledDialogue]:
    """Yield the conversations of all splits; the speaker is the user, the listener the assistant.

    Args:
        files: as of `corpora.empathetic.read_situations`.
        intents: files of EmpatheticIntents; without any, utterances have no label of their own.
    """
    silver = _silver_labels(intents) if intents else None
    if silver is None:
        logger.warning("EmpatheticDialogues has no labels of its utterances: EmpatheticIntents is not here")
    for split, rows in read_rows(files, rejects.dialogues):
        for name, group in groupby(rows, key=lambda row: row[1].conv_id):
            (where, first), *others = group
            utterances = [first, *(row for _, row in others)]
            try:
                yield _conversation(name, split, where, utterances, silver, rejects)
            except ValueError as error:
                rejects.dialogues.append(Reject(where, str(error)))


def _conversation(
    name: str, split: str, where: str, rows: Sequence[Row], silver: SilverLabels | None, rejects: Rejects
) -> LabelledDialogue:
    if [row.number for row in rows] != sorted({row.number for row in rows}):
        raise ValueError("utterances out of their order, or one twice")
    if len({row.emotion for row in rows}) > 1:
        raise ValueError("several emotions for one conversation")
    messages = tuple(message("user" if row.speaker == rows[0].speaker else "assistant", row.utterance) for row in rows)
    labels: list[dict[str, Label]] = [{} for _ in rows]
    if silver is not None:
        values = silver.get(name, [])
        if len(values) == len(rows):
            for each, value in zip(labels, values, strict=True):
                each["silver"] = Label(value, SILVER)
        else:
            why = f"{len(values)} silver labels of {len(rows)} utterances" if values else "no silver labels"
            rejects.labels += [Reject(where, why)] * len(rows)
    whole = {"emotion": Label(rows[0].emotion), "situation": Label(rows[0].prompt)}
    return LabelledDialogue(Dialogue(name, messages), split, where, whole, tuple(labels))


def _silver_labels(files: Mapping[str, Path]) -> SilverLabels:
    labels: SilverLabels = {}
    for name, path in sorted(files.items()):
        try:
            lines = (line.decode("utf-8-sig") for line in read_lines(path))
            tabs = file_form(name) == ".tsv"
            rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines)
            if not tabs and (header := next(rows, [])) != _COLUMNS:
                raise InputDataError(f"{path} is no file of EmpatheticIntents: its first line is {header!r}")
            for number, row in enumerate(rows, start=1 if tabs else 2):
                if len(row) != (4 if tabs else len(_COLUMNS)):
                    raise InputDataError(f"{path}:{number} is no line of EmpatheticIntents: {row!r}")
                if row[1] not in ("0", "situation"):
                    labels.setdefault(row[0], []).append(row[-1].strip())
        except (DamagedFileError, UnicodeDecodeError) as error:
            raise InputDataError(f"{path} cannot be read: {error}. Fetch it again.") from error
    return labels
