"""The user's own dialogues of two people, with or without labels, in one documented form (docs/corpora.md).

A record is a messages record as in `corpora.conversations`, whose messages may have labels::

    {"id": "tea", "split": "train", "messages": [
      {"role": "user", "content": "I lost my keys.", "motivation": "sharing", "emotion": "annoyed", "topics": ["keys"]},
      {"role": "assistant", "content": "Oh no! Where did you see them last?", "motivation": "question",
       "source": "silver"}]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sage_dialog.corpora.conversations import FORMS
from sage_dialog.corpora.labelled.records import (
    HUMAN,
    SILVER,
    SPLITS,
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

_FIELDS = ("motivation", "emotion")


def read_own(files: Mapping[str, Path], rejects: Rejects) -> Iterator[LabelledDialogue]:
    """Yield the dialogues of all files; a record without a split has that of its file's name, or else train."""
    for name, path in named(files, *FORMS).items():
        for where, record in json_records(name, path, rejects):
            try:
                yield _dialogue(where, record, split_of(name) or "train")
            except ValueError as error:
                rejects.dialogues.append(Reject(where, str(error)))


def _dialogue(where: str, record: Mapping[str, Any], split: str) -> LabelledDialogue:
    if not isinstance(turns := record.get("messages"), list):
        raise ValueError("no list named messages")
    if (split := record.get("split") or split) not in SPLITS:
        raise ValueError(f"a split that is none of {', '.join(SPLITS)}: {split!r}")
    messages, labels = [], []
    for position, turn in enumerate(turns):
        if not isinstance(turn, dict) or (role := turn.get("role")) not in ("user", "assistant"):
            raise ValueError(f"message {position} has a role that is neither user nor assistant")
        source = turn.get("source") or HUMAN
        if source not in (HUMAN, SILVER):
            raise ValueError(f"message {position} has a source of labels that is neither {HUMAN} nor {SILVER}")
        if not isinstance(topics := turn.get("topics") or [], list) or any(
            not isinstance(each, str) for each in topics
        ):
            raise ValueError(f"message {position} has topics that are no list of texts")
        messages.append(message(role, turn.get("content")))
        texts = text_labels({**turn, "topics": ", ".join(topics)}, *_FIELDS, "topics")
        labels.append({name: Label(label.value, source) for name, label in texts.items()})
    name = record.get("id")
    if name is not None and (not isinstance(name, str | int) or not str(name).strip()):
        raise ValueError("an id that is neither text nor a number")
    dialogue = Dialogue(where if name is None else str(name), tuple(messages))
    return LabelledDialogue(dialogue, split, where, {}, tuple(labels))
