"""Dialogues and searches of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sage_dialog.config import OutcomeRule
from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.tables import DataFrame
from sage_dialog.evaluation.judging.votes import ORDERS, PAIR, outcomes
from sage_dialog.evaluation.report.formatting import group_rows
from sage_dialog.evaluation.report.page import script_data

MOST_SITUATIONS = 40
MOST_SEARCHES = 12
LARGEST = 1_500_000  # characters of JSON, of the dialogues and of the searches each

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]


def dialogues_by_situation(
    rollouts: DataFrame, votes: DataFrame, emotions: Mapping[str, str], rule: OutcomeRule, seed: int
) -> Rows:
    """Return the dialogues of every policy on some situations, and every judge's votes on them.

    Situations are taken in an order by seed and id, independent of any result, until there are `MOST_SITUATIONS` or
    the next one would exceed `LARGEST`; the first one is always taken.

    Args:
        emotions: the labels by situation.
    """
    drawn = _draw(rollouts["situation_id"].unique(), MOST_SITUATIONS, seed)
    messages = {policy: _by_situation(rows, drawn) for policy, rows in rollouts.groupby("policy", sort=False)}
    votes = votes[votes["situation_id"].isin(drawn)]
    answers, judged = _by_situation(votes, drawn), _by_situation(outcomes(votes, rule), drawn)

    def describe(situation: str) -> dict[str, Any]:
        return {
            "id": situation,
            "emotion": emotions.get(situation, "no label"),
            "dialogues": {policy: _dialogue(of[situation]) for policy, of in messages.items() if of.get(situation)},
            "votes": _votes(answers.get(situation, []), judged.get(situation, [])),
        }

    return _that_fit(drawn, describe)


def searched_dialogues(trajectories: DataFrame, candidates: DataFrame, emotions: Mapping[str, str], seed: int) -> Rows:
    """Return some dialogues of a search, each turn of the agent with all its candidates.

    Situations are taken as in `dialogues_by_situation`, up to `MOST_SEARCHES`.
    """
    drawn = _draw(trajectories["situation_id"].unique(), MOST_SEARCHES, seed)
    messages, sampled = _by_situation(trajectories, drawn), _by_situation(candidates, drawn)

    def describe(situation: str) -> dict[str, Any]:
        by_turn: dict[int, Rows] = {}
        for row in sorted(sampled.get(situation, ()), key=lambda row: row["candidate"]):
            by_turn.setdefault(row["turn"], []).append(_candidate(row))
        dialogue = _dialogue(messages[situation])
        for place, turn in zip(sorted(row["turn"] for row in messages[situation]), dialogue["turns"], strict=True):
            turn["candidates"] = by_turn.get(place, [])
        return {"id": situation, "emotion": emotions.get(situation, "no label"), **dialogue}

    return _that_fit(drawn, describe)


def _draw(ids: Iterable[str], most: int, seed: int) -> list[str]:
    return sorted(ids, key=lambda id_: (derived_seed(seed, "shown in the report", id_), id_))[:most]


def _that_fit(drawn: Sequence[str], describe: Callable[[str], dict[str, Any]]) -> Rows:
    """Return the first situations that fit, sorted by id."""
    rows: Rows = []
    size = 0
    for situation in drawn:
        row = describe(situation)
        size += len(script_data(row))
        if rows and size > LARGEST:
            break
        rows.append(row)
    return sorted(rows, key=lambda row: str(row["id"]))


def _by_situation(table: DataFrame, situations: Sequence[str]) -> dict[str, Rows]:
    return group_rows(table[table["situation_id"].isin(situations)], "situation_id")


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
