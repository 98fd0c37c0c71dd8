"""Dialogues and searches of the report: all of them, compressed in the page.

The page finds dialogues by an index of votes and replies, and unpacks the parts that it shows::

    {"index": compressed, "parts": [compressed, …]}    # each as by `page.compressed`

A part holds some situations, each as `describe` of its kind returns it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from sage_dialog.config import OutcomeRule
from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.judging.length import count_words
from sage_dialog.evaluation.judging.votes import ORDERS, PAIR, outcomes
from sage_dialog.evaluation.replies.emotions import UNMAPPED, UNNAMED
from sage_dialog.evaluation.report.formatting import group_rows
from sage_dialog.evaluation.report.page import compressed

PART = 400_000  # characters of JSON in a part
MOST_SEARCHED = 8_000_000  # characters of the compressed searches
OPENING = 70  # characters
NO_LABEL = "no label"

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]


class Embedded(NamedTuple):
    """Situations in the page: its data, their number, and some of them for readers without scripts."""

    data: dict[str, Any]
    situations: int
    examples: Rows


def embed_dialogues(
    rollouts: DataFrame,
    votes: DataFrame,
    labels: Mapping[str, str],
    readings: DataFrame,
    failing: DataFrame,
    rule: OutcomeRule,
    seed: int,
    examples: int,
) -> Embedded:
    """Return the dialogues of every policy on all situations, with every judge's votes on them.

    Args:
        labels: the emotions by situation.
        readings: as returned by `emotions.read_emotions`.
        failing: as returned by `failures.failing_replies`.
        examples: how many situations are drawn by seed, whatever their outcome.
    """
    ids = sorted(rollouts["situation_id"].unique())
    judged = outcomes(votes[votes["situation_id"].isin(ids)], rule)
    failures = failing.groupby(["policy", "situation_id", "exchange"])["failure"].agg(list).to_dict()
    messages = {policy: group_rows(rows, "situation_id") for policy, rows in rollouts.groupby("policy", sort=False)}
    answers, by_situation = group_rows(votes, "situation_id"), group_rows(judged, "situation_id")

    def describe(situation: str) -> dict[str, Any]:
        dialogues = {policy: _dialogue(of[situation]) for policy, of in messages.items() if situation in of}
        for policy, dialogue in dialogues.items():
            replies = [turn for turn in dialogue["turns"] if turn["role"] == "assistant"]
            for exchange, turn in enumerate(replies, start=1):
                if found := failures.get((policy, situation, exchange)):
                    turn["failures"] = found
        return {
            "id": situation,
            "label": labels.get(situation, NO_LABEL),
            "dialogues": dialogues,
            "votes": _votes(answers.get(situation, []), by_situation.get(situation, [])),
        }

    described = [describe(situation) for situation in ids]
    openings = [next(iter(row["dialogues"].values()))["turns"][0]["text"] for row in described]
    parts, places = _parts(described)
    index = {
        "situations": {
            "id": ids,
            "label": [row["label"] for row in described],
            "opening": [text[:OPENING] for text in openings],
            "part": places,
        },
        "votes": _vote_index(judged, ids, count_words(rollouts)),
        "replies": _reply_index(rollouts, ids, readings, failures),
    }
    drawn = set(_draw(ids, seed)[:examples])
    data = {"index": compressed(index), "parts": [compressed(part) for part in parts]}
    return Embedded(data, len(ids), [row for row in described if row["id"] in drawn])


def embed_searches(trajectories: DataFrame, candidates: DataFrame, labels: Mapping[str, str], seed: int) -> Embedded:
    """Return the dialogues of a search, each turn of the agent with all its candidates.

    All situations, or as many as fit into `MOST_SEARCHED`, drawn by seed and id.
    """
    messages, sampled = group_rows(trajectories, "situation_id"), group_rows(candidates, "situation_id")

    def describe(situation: str) -> dict[str, Any]:
        by_turn: dict[int, Rows] = {}
        for row in sorted(sampled.get(situation, ()), key=lambda row: row["candidate"]):
            by_turn.setdefault(row["turn"], []).append(_candidate(row))
        dialogue = _dialogue(messages[situation])
        for place, turn in zip(sorted(row["turn"] for row in messages[situation]), dialogue["turns"], strict=True):
            turn["candidates"] = by_turn.get(place, [])
        return {"id": situation, "label": labels.get(situation, NO_LABEL), **dialogue}

    described: Rows = []
    size = 0
    for situation in _draw(messages, seed):
        row = describe(situation)
        size += len(compressed(row))
        if described and size > MOST_SEARCHED:
            break
        described.append(row)
    examples = described[:1]
    described.sort(key=lambda row: str(row["id"]))
    parts, places = _parts(described)
    index = {
        "id": [row["id"] for row in described],
        "label": [row["label"] for row in described],
        "opening": [row["turns"][0]["text"][:OPENING] for row in described],
        "part": places,
    }
    data = {"index": compressed(index), "parts": [compressed(part) for part in parts]}
    return Embedded(data, len(described), examples)


def _draw(ids: Iterable[str], seed: int) -> list[str]:
    return sorted(ids, key=lambda id_: (derived_seed(seed, "shown in the report", id_), id_))


def _parts(rows: Sequence[dict[str, Any]]) -> tuple[list[Rows], list[list[int]]]:
    """Return rows in parts, and of each row the indices of its part and within it."""
    parts: list[Rows] = []
    places = []
    size = PART
    for row in rows:
        if size >= PART:
            parts.append([])
            size = 0
        places.append([len(parts) - 1, len(parts[-1])])
        parts[-1].append(row)
        size += len(json.dumps(row))
    return parts, places


def _vote_index(judged: DataFrame, ids: Sequence[str], words: DataFrame) -> dict[str, Any]:
    """Return columns of the judged pairs of dialogues; "longer" is the policy, "a" or "b", that writes more words."""
    written = {(policy, situation): n for policy, situation, n in words.itertuples(index=False)}
    rows = to_rows(judged)
    longer = []
    for row in rows:
        a, b = (written.get((row[policy], row["situation_id"]), 0) for policy in ("policy_a", "policy_b"))
        longer.append("a" if a > b else "b" if b > a else "")
    return {
        **_positions([row["situation_id"] for row in rows], "situation", ids),
        **_coded("judge", "judges", [row["judge"] for row in rows]),
        **_coded("pair", "pairs", [[row["policy_a"], row["policy_b"]] for row in rows]),
        **{column: [row[column] for row in rows] for column in (*ORDERS, "kind", "outcome")},
        "longer": longer,
    }


def _reply_index(
    rollouts: DataFrame, ids: Sequence[str], readings: DataFrame, failures: Mapping[tuple[str, str, int], list[str]]
) -> dict[str, Any]:
    """Return columns of the replies: what they name and read (null without blocks), and how they fail."""
    replies = rollouts[rollouts["role"] == "assistant"].sort_values(["policy", "situation_id", "turn"], kind="stable")
    replies = replies[["policy", "situation_id"]].assign(
        exchange=replies.groupby(["policy", "situation_id"]).cumcount().add(1).astype("int32[pyarrow]")
    )
    keys = ["policy", "situation_id", "exchange"]
    rows = to_rows(replies.merge(readings.assign(read=True), how="left", on=keys))
    return {
        **_positions([row["situation_id"] for row in rows], "situation", ids),
        **_coded("policy", "policies", [row["policy"] for row in rows]),
        "exchange": [row["exchange"] for row in rows],
        "named": [row["named"] for row in rows],
        "read": [_predicted(row) if row["read"] else None for row in rows],
        "failures": [failures.get(tuple(row[key] for key in keys), []) for row in rows],
    }


def _predicted(row: Row) -> str:
    """Return what a reply with blocks reads, as `emotions.emotion_confusion` counts it."""
    return str(row["mapped"]) if row["mapped"] is not None else UNNAMED if row["named"] is None else UNMAPPED


def _positions(values: Sequence[str], name: str, ids: Sequence[str]) -> dict[str, list[int]]:
    return {name: pd.Index(ids, dtype=object).get_indexer(pd.Index(values, dtype=object)).tolist()}


def _coded(column: str, different: str, values: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the different values in order of appearance, and as a column the index of each row's value."""
    codes: dict[str, int] = {}
    places = [codes.setdefault(json.dumps(value), len(codes)) for value in values]
    return {different: [json.loads(value) for value in codes], column: places}


def _dialogue(messages: Rows) -> dict[str, Any]:
    messages = sorted(messages, key=lambda row: row["turn"])
    turns = [
        {"role": row["role"], "text": row["text"], **(_blocks(row) if row["role"] == "assistant" else {})}
        for row in messages
    ]
    return {"outcome": messages[0]["outcome"], "turns": turns}


def _blocks(row: Row) -> dict[str, Any]:
    """Return state and action, if there are any, as (motivation, emotion, topics)."""
    return {
        block: [row[f"{prefix}motivation"], row[f"{prefix}emotion"], row[f"{prefix}topics"]]
        for block, prefix in (("state", "u_"), ("action", "a_"))
        if row[f"{prefix}topics"] is not None
    }


def _candidate(row: Row) -> dict[str, Any]:
    if row["valid"]:
        return {"number": row["candidate"] + 1, "text": row["utterance"], "chosen": row["chosen"], **_blocks(row)}
    return {"number": row["candidate"] + 1, "text": row["text"], "chosen": row["chosen"], "why": row["invalid_reason"]}


def _votes(votes: Rows, judged: Rows) -> Rows:
    """Return each judge's answer in either order and its outcome on each pair; a person answers once.

    Args:
        votes: rows of `schemas.JUDGE_VOTES` on one situation.
        judged: rows of `votes.outcomes` on it.
    """
    written = {(row["judge"], row["policy_a"], row["policy_b"], row["order"]): row["raw_response"] for row in votes}
    described = []
    for row in judged:
        judge, a, b = (row[name] for name in PAIR)
        names = {"a": a, "b": b, None: "no answer"}
        described.append(
            {
                "a": a,
                "b": b,
                "judge": judge,
                "answers": [names.get(row[order], row[order]) for order in ORDERS],
                "outcome": names.get(row["outcome"], row["outcome"]),
                "wrote": [written.get((judge, a, b, order)) for order in ORDERS],
            }
        )
    return described
