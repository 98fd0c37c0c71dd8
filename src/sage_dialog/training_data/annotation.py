"""Annotated dialogues: labels that a corpus has are taken, what has none goes to the annotator (paper §3.2)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from tqdm import tqdm

from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.dialogue import Message
from sage_dialog.roles.protocols import Annotator, LabelledUtterance, RejectedDialogue
from sage_dialog.schemas import ANNOTATION_REJECTS, ANNOTATIONS

logger = logging.getLogger(__name__)

FIELDS = ("motivation", "emotion", "topics")
ANNOTATOR = "annotator"
"""The source of labels that the annotator gave."""

_NAMED_REJECTS = 3  # in the log; annotation_rejects has all

Row = dict[str, Any]


def label_dialogues(
    dialogues: DataFrame, corpus_dialogues: DataFrame, annotator: Annotator, missing_labels: str
) -> tuple[DataFrame, DataFrame]:
    """Return every utterance with motivation, emotion and topics, and the dialogues that have none.

    Args:
        dialogues: schemas.DIALOGUES; the two speakers alternate, the first is the user. All go to the annotator.
        corpus_dialogues: schemas.CORPUS_DIALOGUES. Their text stays as it is. Utterances of one role in a row become
            one, with the first of their motivations and emotions and all of their topics.
        missing_labels: which of `corpus_dialogues` go to the annotator: "dialogues" without any label, or with it all
            that lack some of their "labels". Labels of the corpus stay.

    Returns:
        Tables of `schemas.ANNOTATIONS` and `schemas.ANNOTATION_REJECTS`; every dialogue is in one of them.
    """
    reddit = [(row["dialogue_id"], _alternating(row["turns"])) for row in to_rows(dialogues[["dialogue_id", "turns"]])]
    labelled = [(row["dialogue_id"], row["corpus"], merged_turns(row["turns"])) for row in to_rows(corpus_dialogues)]
    _warn_of_merged_labels(corpus_dialogues)
    wanting = [_wants_annotator(turns, missing_labels) for _, _, turns in labelled]
    sent = [messages for _, messages in reddit] + [
        [Message(turn["role"], turn["text"]) for turn in turns]
        for (_, _, turns), wants in zip(labelled, wanting, strict=True)
        if wants
    ]
    results = iter(
        tqdm(annotator.annotate(sent), f"annotating with {annotator.name}", total=len(sent), unit="dialogue")
    )
    annotations: list[Row] = []
    rejects: list[Row] = []
    for name, messages in reddit:
        result = next(results)
        if isinstance(result, RejectedDialogue):
            _reject(name, result, rejects)
        else:
            annotations += _annotated(name, messages, result, annotator.name)
    for (name, corpus, turns), wants in zip(labelled, wanting, strict=True):
        result = next(results) if wants else None
        if isinstance(result, RejectedDialogue):
            if not any(_has_label(turn) for turn in turns):
                _reject(name, result, rejects)
                continue
            result = None
        annotations += _of_corpus(name, corpus, turns, result, annotator.name)
    if rejects:
        logger.warning("%d of %d dialogues were rejected; see annotation_rejects", len(rejects), len(sent))
    return from_rows(annotations, ANNOTATIONS), from_rows(rejects, ANNOTATION_REJECTS)


def training_dialogues(corpus_dialogues: DataFrame, removed: Collection[str]) -> DataFrame:
    """Return the dialogues of the training splits, without those that stand in a held-out split as well."""
    is_train = corpus_dialogues["split"] == "train"
    return corpus_dialogues[is_train & ~corpus_dialogues["dialogue_id"].isin(list(removed))]


def _alternating(turns: Sequence[Mapping[str, Any]]) -> list[Message]:
    return [Message("assistant" if turn % 2 else "user", utterance["text"]) for turn, utterance in enumerate(turns)]


def merged_turns(turns: Sequence[Row]) -> list[Row]:
    """Return one turn for all utterances of a role in a row: the first of their labels, all of their topics."""
    merged = []
    for role, group in groupby(turns, key=lambda turn: turn["role"]):
        utterances = list(group)
        turn: Row = {"role": role, "text": " ".join(utterance["text"] for utterance in utterances)}
        for field in FIELDS:
            given = [utterance for utterance in utterances if utterance[field] is not None]
            turn[field] = given[0][field] if given else None
            turn[f"{field}_source"] = given[0][f"{field}_source"] if given else None
        if turn["topics"] is not None:
            turn["topics"] = list(dict.fromkeys(topic for each in utterances for topic in each["topics"] or ()))
        merged.append(turn)
    return merged


def _warn_of_merged_labels(corpus_dialogues: DataFrame) -> None:
    """Log how many labels of utterances differ from the first of those merged with them."""
    lost: Counter[str] = Counter()
    for row in to_rows(corpus_dialogues[["corpus", "turns"]]):
        for _, group in groupby(row["turns"], key=lambda turn: turn["role"]):
            utterances = list(group)
            for field in ("motivation", "emotion"):
                given = [utterance[field] for utterance in utterances if utterance[field] is not None]
                lost[row["corpus"]] += sum(value != given[0] for value in given)
    for corpus, count in lost.items():
        if count:
            logger.warning(
                "%s: %d labels of utterances differ from the first of the same turn, which is the one that is used",
                *(corpus, count),
            )


def _has_label(turn: Row) -> bool:
    return any(turn[field] is not None for field in FIELDS)


def _wants_annotator(turns: Sequence[Row], missing_labels: str) -> bool:
    if missing_labels == "labels":
        return any(turn[field] is None for turn in turns for field in FIELDS)
    return not any(_has_label(turn) for turn in turns)


def _reject(name: str, result: RejectedDialogue, rejects: list[Row]) -> None:
    rejects.append({"dialogue_id": name, "reason": result.reason, "raw_response": result.raw_response})
    if len(rejects) <= _NAMED_REJECTS:
        logger.warning("dialogue %s is rejected: %s", name, result.reason)


def _annotated(
    name: str, messages: Sequence[Message], labels: Sequence[LabelledUtterance], annotator: str
) -> Iterator[Row]:
    for turn, (message, label) in enumerate(zip(messages, labels, strict=True)):
        yield {
            "dialogue_id": name,
            "turn": turn,
            "role": message.role,
            **_given(label),
            "text": label.text,
            "original_text": message.text,
            "kept_original": label.kept_original,
            "annotator": annotator,
        }


def _of_corpus(
    name: str, corpus: str, turns: Sequence[Row], labels: Sequence[LabelledUtterance] | None, annotator: str
) -> Iterator[Row]:
    for position, turn in enumerate(turns):
        row = {
            "dialogue_id": name,
            "turn": position,
            "role": turn["role"],
            "text": turn["text"],
            "original_text": turn["text"],
            "kept_original": False,
            "annotator": corpus if labels is None else annotator,
        }
        given = _given(labels[position]) if labels is not None else {}
        for field in FIELDS:
            values = turn if turn[field] is not None else given
            row |= {column: values.get(column) for column in (field, f"{field}_source")}
        yield row


def _given(label: LabelledUtterance) -> Row:
    """Return the annotator's labels with their source; an empty list of topics is no label of the annotator."""
    values = {
        "motivation": label.intent.motivation,
        "emotion": label.intent.emotion,
        "topics": list(label.intent.topics),
    }
    return values | {f"{field}_source": ANNOTATOR if value else None for field, value in values.items()}
