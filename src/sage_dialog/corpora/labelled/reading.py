"""Corpora become tables: every dialogue with its labels as published, and what they mean by the corpus's label map."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_dialog.config import Corpora, LabelMap
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.corpora.labelled.dailydialog import read_dailydialog
from sage_dialog.corpora.labelled.empathetic import read_empathetic
from sage_dialog.corpora.labelled.esconv import read_esconv, read_failed_esconv
from sage_dialog.corpora.labelled.own import read_own
from sage_dialog.corpora.labelled.records import SPLITS, Label, LabelledDialogue, Rejects
from sage_dialog.corpora.rejects import InputDataError, Reject, log_rejects
from sage_dialog.sac import normalize_label
from sage_dialog.schemas import CORPUS_DIALOGUES, CORPUS_REJECTS

logger = logging.getLogger(__name__)

Files = Mapping[str, Path]
FIELDS = ("motivation", "emotion", "topics")


FOLDERS: dict[str, tuple[str, ...]] = {
    "esconv": ("esconv",),
    "failed_esconv": ("esconv",),
    "dailydialog": ("dailydialog",),
    "empathetic_dialogues": ("empathetic_dialogues", "empathetic_intents"),
    "own": ("own_dialogues",),
}
"""The catalog entries of each corpus of `corpora.read`; its dialogues are in the first one."""


def read_corpora(folders: Mapping[str, Files], config: Corpora) -> tuple[DataFrame, DataFrame]:
    """Return the dialogues of the corpora in use, and what was left out of them.

    Args:
        folders: the files of each raw folder by its catalog name: `esconv`, `dailydialog`, `empathetic_dialogues`,
            `empathetic_intents`, `own_dialogues`.

    Returns:
        Tables of `schemas.CORPUS_DIALOGUES` and `schemas.CORPUS_REJECTS`.

    Raises:
        InputDataError: naming the corpus, if it has no files or no dialogue, or loses more dialogues or labels than
            `max_reject_share`.
    """
    rows, rejected = [], []
    for name in config.read:
        rejects = Rejects()
        found = list(_rows(name, _reader(name, folders, rejects), config.labels[name], rejects))
        log_rejects(logger, name, [*rejects.dialogues, *rejects.labels])
        _check(name, found, rejects, config.max_reject_share)
        rows += found
        for unit, left_out in (("dialogue", rejects.dialogues), ("label", rejects.labels)):
            rejected += [
                {"corpus": name, "record": reject.where, "unit": unit, "reason": reject.reason} for reject in left_out
            ]
    return from_rows(rows, CORPUS_DIALOGUES), from_rows(rejected, CORPUS_REJECTS)


def _reader(name: str, folders: Mapping[str, Files], rejects: Rejects) -> Iterator[LabelledDialogue]:
    """Return the dialogues of a corpus.

    Raises:
        InputDataError: if its folder has no files.
    """
    readers: dict[str, Callable[[Files], Iterator[LabelledDialogue]]] = {
        "esconv": lambda files: read_esconv(files, rejects),
        "failed_esconv": lambda files: read_failed_esconv(files, rejects),
        "dailydialog": lambda files: read_dailydialog(files, rejects),
        "empathetic_dialogues": lambda files: read_empathetic(files, folders["empathetic_intents"], rejects),
        "own": lambda files: read_own(files, rejects),
    }
    folder = FOLDERS[name][0]
    if not folders[folder]:
        raise InputDataError(
            f"corpora.read names {name}, and the folder of the catalog entry {folder} has no files of it. "
            "docs/corpora.md says where it is to be had and what its files are called."
        )
    return readers[name](folders[folder])


def _rows(
    corpus: str, dialogues: Iterator[LabelledDialogue], labels: LabelMap, rejects: Rejects
) -> Iterator[dict[str, Any]]:
    """Yield rows of CORPUS_DIALOGUES; dialogues of one speaker and ids that were there before are rejected."""
    ids: set[str] = set()
    for each in dialogues:
        name = f"{corpus}/{each.split}/{each.dialogue.id}"
        roles = {message.role for message in each.dialogue.messages}
        if len(roles) < 2:
            why = f"only the {next(iter(roles))} speaks" if roles else "no utterances"
            rejects.dialogues.append(Reject(each.where, why))
        elif name in ids:
            rejects.dialogues.append(Reject(each.where, "an id that was there before"))
        else:
            ids.add(name)
            turns = [
                {
                    "role": message.role,
                    "text": message.text,
                    **_intent(message.role, {"utterance": own, "dialogue": each.labels}, labels, each.where, rejects),
                    "labels": _published(own),
                }
                for message, own in zip(each.dialogue.messages, each.message_labels, strict=True)
            ]
            yield {
                "dialogue_id": name,
                "corpus": corpus,
                "split": each.split,
                "labels": _published(each.labels),
                "turns": turns,
            }


def _published(labels: Mapping[str, Label]) -> list[dict[str, str]]:
    return [{"name": name, "value": label.value} for name, label in labels.items()]


def _intent(
    role: str, found: Mapping[str, Mapping[str, Label]], labels: LabelMap, where: str, rejects: Rejects
) -> dict[str, Any]:
    """Return motivation, emotion and topics of an utterance with the source of each, by the label map."""
    intent: dict[str, Any] = {}
    for field in FIELDS:
        value, source = None, None
        for rule in labels.rules(field, role):
            if (label := found[rule.of].get(rule.label)) is None:
                continue
            if rule.values is not None and label.value not in rule.values:
                rejects.labels.append(Reject(where, f"{rule.label} {label.value!r} is not in the label map"))
                continue
            text = label.value if rule.values is None else rule.values[label.value]
            if value := _normalised(field, text or ""):
                source = label.source
                break
        intent |= {field: value or None, f"{field}_source": source}
    return intent


def _normalised(field: str, text: str) -> Any:
    if field != "topics":
        return normalize_label(text)
    return list(dict.fromkeys(topic for part in text.split(",") if (topic := normalize_label(part))))


def _check(name: str, rows: Sequence[Mapping[str, Any]], rejects: Rejects, allowed: float) -> None:
    """Raise InputDataError if too much of a corpus is lost, or there is none of it; log its splits."""
    labels = sum(turn[field] is not None for row in rows for turn in row["turns"] for field in FIELDS)
    for unit, kept, left_out, remedy in (
        ("dialogues", len(rows), rejects.dialogues, "Mend the files"),
        ("labels", labels, rejects.labels, f"Mend the files, add the values to the label map of {name}"),
    ):
        if len(left_out) > allowed * (kept + len(left_out)):
            raise InputDataError(
                f"{name}: {len(left_out)} of {kept + len(left_out)} {unit} cannot be read, more than "
                f"corpora.max_reject_share = {allowed:g} allows (first: {left_out[0].where}: {left_out[0].reason}). "
                f"{remedy}, or allow it."
            )
    if not rows:
        raise InputDataError(f"{name} has no dialogue in its files. docs/corpora.md says what they are called.")
    splits = Counter(row["split"] for row in rows)
    if "train" not in splits:
        logger.warning("%s has no training split here: nothing of it is trained on", name)
    if not splits.keys() - {"train"}:
        logger.warning("%s has no held-out split here: nothing of it can be evaluated on", name)
    logger.info("%s: %s", name, ", ".join(f"{splits[split]} dialogues {split}" for split in SPLITS if splits[split]))
