"""Dialogues, searches and votes as rows for pages: what a message reads, says and means, and who voted how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.judging.votes import ORDERS, PAIR

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]


def grouped_rows(table: DataFrame, *columns: str) -> dict[tuple[str, ...], Rows]:
    """Return the rows by the values of columns; of few rows faster than a table for each group."""
    groups: dict[tuple[str, ...], Rows] = {}
    for row in to_rows(table):
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def dialogue_row(messages: Rows, failures: Mapping[int, list[str]]) -> dict[str, Any]:
    """Return outcome and turns, those of the agent with their blocks and their failures by exchange."""
    turns: Rows = []
    exchange = 0
    for row in sorted(messages, key=lambda row: row["turn"]):
        turn = {"role": row["role"], "text": row["text"]}
        if row["role"] == "assistant":
            exchange += 1
            turn |= _blocks(row) | ({"failures": failures[exchange]} if exchange in failures else {})
        turns.append(turn)
    return {"outcome": messages[0]["outcome"], "turns": turns}


def search_row(situation: str, messages: Rows, candidates: Rows, label: str) -> dict[str, Any]:
    """Return the dialogue of a search, each turn of the agent with the candidates that it was chosen from."""
    by_turn: dict[int, Rows] = {}
    for row in sorted(candidates, key=lambda row: row["candidate"]):
        by_turn.setdefault(row["turn"], []).append(candidate_row(row))
    dialogue = dialogue_row(messages, {})
    for place, turn in zip(sorted(row["turn"] for row in messages), dialogue["turns"], strict=True):
        turn["candidates"] = by_turn.get(place, [])
    return {"id": situation, "label": label, **dialogue}


def candidate_row(row: Row) -> dict[str, Any]:
    """Return a candidate with its blocks, or with the reason why it is not valid."""
    if row["valid"]:
        return {"number": row["candidate"] + 1, "text": row["utterance"], "chosen": row["chosen"], **_blocks(row)}
    return {"number": row["candidate"] + 1, "text": row["text"], "chosen": row["chosen"], "why": row["invalid_reason"]}


def _blocks(row: Row) -> dict[str, Any]:
    """Return state and action, if there are any, as (motivation, emotion, topics)."""
    return {
        block: [row[f"{prefix}motivation"], row[f"{prefix}emotion"], row[f"{prefix}topics"]]
        for block, prefix in (("state", "u_"), ("action", "a_"))
        if row[f"{prefix}topics"] is not None
    }


def vote_rows(votes: Rows, judged: Rows) -> Rows:
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
