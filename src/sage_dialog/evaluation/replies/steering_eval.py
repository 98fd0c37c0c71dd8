"""Measure how well a policy follows steering: the grid of the paper's Tables 3 to 5, and its rates (paper §3.7).

In a grid each situation has one reply for each requested value, and one without steering. Two rates are measured: block
compliance, the value in the action block, and reply compliance, the value that an annotator, who sees the words alone,
reads in the reply.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from sage_dialog.config import BlockField, BoostScale, SamplingConfig, Steering
from sage_dialog.dialogue import Message
from sage_dialog.evaluation.rollouts import intent_columns
from sage_dialog.evaluation.statistics import Estimate, clustered_share, proportion_interval
from sage_dialog.inference.candidates import parse_candidate
from sage_dialog.inference.engine import Engine, Prompt, Sample
from sage_dialog.roles.protocols import Annotator, RejectedDialogue
from sage_dialog.sac import Intent
from sage_dialog.sac.grammar import is_list_field

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""A row of `schemas.STEERING_GRID`."""

Scores = list[tuple[int, float | None]]
"""Scores in [0, 1], each with its situation."""


@dataclass(frozen=True)
class Opening:
    """A situation, which opens a dialogue, and the prompt for the reply; the id is None if no table holds it."""

    situation_id: str | None
    text: str
    prompt: Prompt


@dataclass(frozen=True)
class Setting:
    """The request to an action field in one row of a grid: one label, for topics one or more; none if `field` is None.

    `boost` is the weight of each label, on `boost_scale`; None fixes the value.
    """

    field: BlockField | None = None
    labels: tuple[str, ...] = ()
    boost: float | None = None
    boost_scale: BoostScale = "log_odds"

    @property
    def steering(self) -> Steering | None:
        """The steering of the engine; a label that cannot be in a block raises pydantic's ValidationError."""
        if self.field is None:
            return None
        if self.boost is not None:
            boosts = {self.field: dict.fromkeys(self.labels, self.boost)}
            return Steering(boosts=boosts, boost_scale=self.boost_scale)
        return Steering(fixed={self.field: self.labels if is_list_field(self.field) else self.labels[0]})


UNSTEERED = Setting()


@dataclass(frozen=True)
class Compliance:
    """The block and reply compliance with a value; without `labels`, with all values of the field.

    `…_unsteered` are the rates of the replies without steering. None if there is nothing to count: no reply whose
    blocks parse, no value that the annotator has a label for, no unsteered reply.
    """

    field: BlockField
    labels: tuple[str, ...]
    block: Estimate
    block_unsteered: Estimate | None
    reply: Estimate | None
    reply_unsteered: Estimate | None


def play_grid(
    engine: Engine,
    policy: str,
    openings: Sequence[Opening],
    settings: Sequence[Setting],
    sampling: SamplingConfig,
    annotator: Annotator,
) -> list[Row]:
    """Return one reply to each opening at each setting, with its compliance; settings of an opening follow each other.

    `block_compliance` is the share of the requested labels in the action block, 0 if the blocks do not parse;
    `reply_compliance` the share that the annotator reads in the reply, None if there is no reply or no such label.

    Raises:
        ValueError: if the policy cannot be steered so (`Engine.sample`).
    """
    prompts = [opening.prompt for opening in openings]
    sampled = [
        engine.sample(policy, prompts, sampling, 1, setting.steering)
        for setting in tqdm(settings, desc=f"steering {policy}", unit="setting", disable=None, leave=False)
    ]
    rows = [
        {
            "policy": policy,
            "situation_id": opening.situation_id,
            "situation": opening.text,
            "field": setting.field,
            "labels": list(setting.labels) if setting.field else None,
            "boost": setting.boost,
            "annotator": annotator.name,
            **_as_written(*sampled[number][place]),
        }
        for place, opening in enumerate(openings)
        for number, setting in enumerate(settings)
    ]
    for row, read in zip(rows, _readings(annotator, rows), strict=True):
        if read is not None:
            row |= intent_columns("read_", read)
        if row["field"]:
            row["block_compliance"] = _share(row, "a_", row["field"], row["labels"]) or 0.0
            labels = getattr(annotator, "labels", None)  # an annotator without a list of labels has any
            known = labels is None or labels[row["field"][2:]].issuperset(row["labels"])
            row["reply_compliance"] = _share(row, "read_", row["field"], row["labels"]) if known else None
    return rows


def steering_eval(rows: Iterable[Row], confidence: float) -> list[Compliance]:
    """Return the compliance of a grid, field by field: with each value, then with all values if there are several.

    Intervals are Wilson's for one value, with situations as observations, and take situations as clusters for several.
    """
    steered: dict[BlockField, dict[tuple[str, ...], dict[int, Row]]] = {}
    unsteered: dict[int, Row] = {}
    places: dict[tuple[str | None, str], int] = {}
    for row in rows:
        place = places.setdefault((row["situation_id"], row["situation"]), len(places))
        if row["field"] is None:
            unsteered[place] = row
        else:
            steered.setdefault(row["field"], {}).setdefault(tuple(row["labels"]), {})[place] = row
    compliance = []
    for field, values in steered.items():
        of_each = [(labels, {labels: found}) for labels, found in values.items()]
        for labels, some in [*of_each, ((), values)] if len(values) > 1 else of_each:
            compliance.append(_compliance(field, labels, some, unsteered, confidence))
    return compliance


def _compliance(
    field: BlockField,
    labels: tuple[str, ...],
    values: Mapping[tuple[str, ...], Mapping[int, Row]],
    unsteered: Mapping[int, Row],
    confidence: float,
) -> Compliance:
    block, reply, block_unsteered, reply_unsteered = Scores(), Scores(), Scores(), Scores()
    for requested, found in values.items():
        for place, row in found.items():
            block.append((place, row["block_compliance"]))
            reply.append((place, row["reply_compliance"]))
        has_labels = any(row["reply_compliance"] is not None for row in found.values())
        for place, row in unsteered.items():
            block_unsteered.append((place, _share(row, "a_", field, requested) or 0.0))
            reply_unsteered.append((place, _share(row, "read_", field, requested) if has_labels else None))
    with_value = _estimate(block, confidence)
    assert with_value is not None  # every row has a block compliance
    others = (_estimate(scores, confidence) for scores in (block_unsteered, reply, reply_unsteered))
    return Compliance(field, labels, with_value, *others)


def _estimate(scores: Scores, confidence: float) -> Estimate | None:
    """Return the mean of the scores that are not None."""
    clusters: dict[int, list[float]] = {}
    for place, score in scores:
        if score is not None:
            clusters.setdefault(place, []).append(score)
    if not clusters:
        return None
    totals, sizes = [sum(scores) for scores in clusters.values()], [len(scores) for scores in clusters.values()]
    if max(sizes) > 1:
        return clustered_share(totals, sizes, confidence)
    return Estimate(sum(totals) / len(totals), *proportion_interval(sum(totals), len(totals), confidence), len(totals))


def _as_written(sample: Sample | None = None) -> Row:
    """Return the columns of a sample; None if the prompt left no room for a reply."""
    if sample is None:
        return {"invalid_reason": "no room in the model's context"}
    read = parse_candidate(sample, blocks=True)
    row = {"text": read.text, "utterance": read.utterance, "invalid_reason": read.invalid_reason}
    if read.chain is None:
        return row
    return row | intent_columns("u_", read.chain.state) | intent_columns("a_", read.chain.action)


def _readings(annotator: Annotator, rows: Sequence[Row]) -> Iterator[Intent | None]:
    """Yield the annotator's labels of each reply; None if there is no reply or no label. An empty reply has none."""
    replies = [row for row in rows if (row.get("utterance") or "").strip()]
    labels = annotator.annotate(
        [(Message("user", row["situation"]), Message("assistant", row["utterance"])) for row in replies]
    )
    refused: list[str] = []
    for row in rows:
        if row.get("utterance") is None:
            yield None
        elif not row["utterance"].strip():
            yield Intent()
        else:
            read = next(labels)
            if isinstance(read, RejectedDialogue):
                refused.append(read.reason)
            yield None if isinstance(read, RejectedDialogue) else read[1].intent
    if refused:
        logger.warning(
            "%s labels %d of %d replies not, the first: %s", annotator.name, len(refused), len(replies), refused[0]
        )


def _share(row: Row, prefix: str, field: str, labels: Sequence[str]) -> float | None:
    """Return the share of the requested labels in these columns of a row; None if they are null."""
    if (topics := row.get(f"{prefix}topics")) is None:
        return None
    held = topics if is_list_field(field) else [row[f"{prefix}{field[2:]}"]]
    return sum(label in held for label in labels) / len(labels)
