"""ESConv: emotional support, each utterance of the supporter with a strategy chosen by people (Liu et al. 2021).

Two published forms are read: `train`, `valid` and `test`, one conversation on each line (speakers usr and sys, the
strategy beside the text), and `ESConv.json` and `FailedESConv.json`, one list each (speakers seeker and supporter, or
speaker and listener; the strategy in `annotation`). The lists name no split: all of them is training data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sage_dialog.corpora.labelled.records import (
    Label,
    LabelledDialogue,
    Rejects,
    json_records,
    message,
    named,
    split_of,
    text_labels,
)
from sage_dialog.corpora.rejects import Reject
from sage_dialog.dialogue import Dialogue

_ROLES = {
    "usr": "user", "seeker": "user", "speaker": "user", "sys": "assistant", "supporter": "assistant",
    "listener": "assistant",
}  # fmt: skip
_DIALOGUE_LABELS = ("emotion_type", "problem_type", "experience_type", "situation")
_TURN_LABELS = ("strategy", "feedback")
_FAILED = "failedesconv"


def read_esconv(files: Mapping[str, Path], rejects: Rejects) -> Iterator[LabelledDialogue]:
    """Yield the conversations of `train`, `valid`, `test` (.jsonl or .txt) and `ESConv.json`, compressed or not."""
    for name, path in named(files, ".jsonl", ".txt", ".json").items():
        stem = name.partition(".")[0].lower()
        if split_of(name) or stem == "esconv":
            yield from _conversations(name, path, split_of(name) or "train", rejects)


def read_failed_esconv(files: Mapping[str, Path], rejects: Rejects) -> Iterator[LabelledDialogue]:
    """Yield the conversations of `FailedESConv.json`, in which the supporter did not help."""
    for name, path in named(files, ".json").items():
        if name.lower().startswith(_FAILED):
            yield from _conversations(name, path, "train", rejects)


def _conversations(name: str, path: Path, split: str, rejects: Rejects) -> Iterator[LabelledDialogue]:
    for number, (where, record) in enumerate(json_records(name, path, rejects)):
        try:
            yield _conversation(str(number), split, where, record)
        except ValueError as error:
            rejects.dialogues.append(Reject(where, str(error)))


def _conversation(name: str, split: str, where: str, record: Mapping[str, Any]) -> LabelledDialogue:
    if not isinstance(turns := record.get("dialog"), list):
        raise ValueError("no list named dialog")
    messages, labels = [], []
    for position, turn in enumerate(turns):
        if not isinstance(turn, dict) or (role := _ROLES.get(str(turn.get("speaker")))) is None:
            raise ValueError(f"utterance {position} has a speaker that is neither seeker nor supporter")
        annotation = turn.get("annotation")
        messages.append(message(role, turn.get("text", turn.get("content"))))
        labels.append(text_labels({**turn, **(annotation if isinstance(annotation, dict) else {})}, *_TURN_LABELS))
    return LabelledDialogue(
        Dialogue(name, tuple(messages)),
        split,
        where,
        text_labels(record, *_DIALOGUE_LABELS) | _survey(record),
        tuple(labels),
    )


def _survey(record: Mapping[str, Any]) -> dict[str, Label]:
    """Return the scores of the survey, as `seeker_empathy`."""
    scores = record.get("survey_score")
    return {
        f"{person}_{name}": label
        for person, answers in (scores.items() if isinstance(scores, dict) else ())
        if isinstance(answers, dict)
        for name, label in text_labels(answers, *answers).items()
    }
