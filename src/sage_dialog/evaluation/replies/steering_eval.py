"""Does a steered policy do as it is told: the grid of the paper's Tables 3 to 5, and its score (paper §3.7).

In a grid each situation gets one reply for each value asked, and one without steering. Two things are scored: whether
the action block takes the value, and whether an annotator, who sees the words alone, reads it in the reply.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_dialog.config import BlockField, SamplingConfig, Steering
from sage_dialog.dialogue import Message
from sage_dialog.evaluation.statistics import Estimate, clustered_share, proportion_interval
from sage_dialog.inference.candidates import parse_candidate
from sage_dialog.inference.engine import Engine, Prompt, Sample
from sage_dialog.roles.protocols import Annotator, RejectedDialogue
from sage_dialog.sac import Chain, Intent
from sage_dialog.sac.grammar import FieldValue, is_list_field

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""A row of `schemas.STEERING_GRID`."""


@dataclass(frozen=True)
class Opening:
    """A situation, which opens a dialogue, and the prompt for the reply; one that no table holds has no id."""

    situation_id: str | None
    text: str
    prompt: Prompt


@dataclass(frozen=True)
class Setting:
    """What one row of a grid asks of an action field: one label, for topics one or more; nothing where `field` is null.

    `boost` is the weight of each label; null fixes the value.
    """

    field: BlockField | None = None
    labels: tuple[str, ...] = ()
    boost: float | None = None

    @property
    def steering(self) -> Steering | None:
        """Raises pydantic's ValidationError where a label cannot be written in a block."""
        if self.field is None:
            return None
        if self.boost is not None:
            return Steering(boosts={self.field: dict.fromkeys(self.labels, self.boost)})
        return Steering(fixed={self.field: self.labels if is_list_field(self.field) else self.labels[0]})


UNSTEERED = Setting()


@dataclass(frozen=True)
class Obedience:
    """How often a value was taken by the block and carried by the reply; without `labels`, all values of the field.

    `…_unsteered`: the same of the replies without steering, for comparison. Null where there is nothing to count: no
    reply whose blocks parse, no value that the annotator has a label for, no unsteered reply.
    """

    field: BlockField
    labels: tuple[str, ...]
    taken: Estimate
    taken_unsteered: Estimate | None
    carried: Estimate | None
    carried_unsteered: Estimate | None


def value_of(chain: Chain, field: str) -> FieldValue:
    """What a chain says in a field of the form."""
    intent = chain.state if field.startswith("u_") else chain.action
    return {"motivation": intent.motivation, "emotion": intent.emotion, "topic": intent.topics}[field[2:]]


def play_grid(
    engine: Engine,
    policy: str,
    openings: Sequence[Opening],
    settings: Sequence[Setting],
    sampling: SamplingConfig,
    annotator: Annotator,
) -> list[Row]:
    """One reply to each opening at each setting, scored; settings of an opening follow each other.

    `taken` is the share of the asked labels that stand in the action block, 0 where the blocks do not parse; `carried`
    the share that the annotator reads in the reply, null where there is none to read or it has no such label.

    Raises:
        ValueError: if the policy cannot be steered so (`Engine.sample`).
    """
    from tqdm import tqdm

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
            "asked": list(setting.labels) if setting.field else None,
            "boost": setting.boost,
            "annotator": annotator.name,
            **_as_written(*sampled[number][place]),
        }
        for place, opening in enumerate(openings)
        for number, setting in enumerate(settings)
    ]
    for row, read in zip(rows, _readings(annotator, rows), strict=True):
        row |= _columns("read_", read)
        if row["field"]:
            row["taken"] = _share(row, "a_", row["field"], row["asked"]) or 0.0
            known = _has_labels(annotator, row["field"], row["asked"])
            row["carried"] = _share(row, "read_", row["field"], row["asked"]) if known else None
    return rows


def steering_eval(rows: Iterable[Row], confidence: float) -> list[Obedience]:
    """The score of a grid, field by field: each value, then all values of the field where there are several.

    Of one value the intervals are Wilson's, n being situations; of several they take situations as clusters.
    """
    steered: dict[BlockField, dict[tuple[str, ...], dict[int, Row]]] = {}
    plain: dict[int, Row] = {}
    places: dict[tuple[str | None, str], int] = {}
    for row in rows:
        place = places.setdefault((row["situation_id"], row["situation"]), len(places))
        if row["field"] is None:
            plain[place] = row
        else:
            steered.setdefault(row["field"], {}).setdefault(tuple(row["asked"]), {})[place] = row
    scores = []
    for field, values in steered.items():
        scores += [_score(field, labels, {labels: found}, plain, confidence) for labels, found in values.items()]
        if len(values) > 1:
            scores.append(_score(field, (), values, plain, confidence))
    return scores


def _score(
    field: BlockField,
    labels: tuple[str, ...],
    values: Mapping[tuple[str, ...], Mapping[int, Row]],
    plain: Mapping[int, Row],
    confidence: float,
) -> Obedience:
    given: dict[str, list[tuple[int, float]]] = {"taken": [], "carried": []}
    unsteered: dict[str, list[tuple[int, float]]] = {"taken": [], "carried": []}
    for asked, found in values.items():
        told = any(row["carried"] is not None for row in found.values())
        for place, row in found.items():
            given["taken"].append((place, row["taken"]))
            if row["carried"] is not None:
                given["carried"].append((place, row["carried"]))
        for place, row in plain.items():
            unsteered["taken"].append((place, _share(row, "a_", field, asked) or 0.0))
            if told and (carried := _share(row, "read_", field, asked)) is not None:
                unsteered["carried"].append((place, carried))
    taken = _estimate(given["taken"], confidence)
    assert taken is not None  # every row has it
    return Obedience(
        field,
        labels,
        taken,
        _estimate(unsteered["taken"], confidence),
        _estimate(given["carried"], confidence),
        _estimate(unsteered["carried"], confidence),
    )


def _estimate(observed: Sequence[tuple[int, float]], confidence: float) -> Estimate | None:
    """The mean of scores in [0, 1], each with its situation."""
    clusters: dict[int, list[float]] = {}
    for place, score in observed:
        clusters.setdefault(place, []).append(score)
    if not clusters:
        return None
    totals, sizes = [sum(scores) for scores in clusters.values()], [len(scores) for scores in clusters.values()]
    if max(sizes) > 1:
        return clustered_share(totals, sizes, confidence)
    return Estimate(sum(totals) / len(totals), *proportion_interval(sum(totals), len(totals), confidence), len(totals))


def _as_written(sample: Sample | None = None) -> Row:
    """The columns of what was sampled; none is where the prompt left no room for a reply."""
    if sample is None:
        return {"invalid_reason": "no room in the model's context"}
    read = parse_candidate(sample, blocks=True)
    row = {"text": read.text, "utterance": read.utterance, "invalid_reason": read.reason}
    if read.chain is None:
        return row
    return {**row, **_columns("u_", read.chain.state), **_columns("a_", read.chain.action)}


def _columns(prefix: str, intent: Intent | None) -> Row:
    if intent is None:
        return {}
    return {
        f"{prefix}motivation": intent.motivation,
        f"{prefix}emotion": intent.emotion,
        f"{prefix}topics": list(intent.topics),
    }


def _readings(annotator: Annotator, rows: Sequence[Row]) -> Iterator[Intent | None]:
    """What the annotator reads in each reply; null where there is none or it cannot label it. Silence means nothing."""
    heard = [row for row in rows if (row.get("utterance") or "").strip()]
    labels = annotator.annotate(
        [(Message("user", row["situation"]), Message("assistant", row["utterance"])) for row in heard]
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
            "%s labels %d of %d replies not, the first: %s", annotator.name, len(refused), len(heard), refused[0]
        )


def _share(row: Row, prefix: str, field: str, asked: Sequence[str]) -> float | None:
    """The share of the asked labels that these columns of a row hold; null where nothing was read."""
    if (topics := row.get(f"{prefix}topics")) is None:
        return None
    held = topics if is_list_field(field) else [row[f"{prefix}{field[2:]}"]]
    return sum(label in held for label in asked) / len(asked)


def _has_labels(annotator: Annotator, field: str, asked: Sequence[str]) -> bool:
    """Whether the annotator could read these labels in a reply; one that finds its own words could read any."""
    known = getattr(annotator, "labels", None)
    return known is None or known[field[2:]].issuperset(asked)
