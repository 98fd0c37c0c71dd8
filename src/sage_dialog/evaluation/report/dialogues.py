"""The dialogues and searches that the report carries with it, for its browser and for readers without scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.config import OutcomeRule
from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.evaluation.judging.votes import ORDERS, outcomes
from sage_dialog.schemas import JUDGE_VOTES

if TYPE_CHECKING:
    import pyarrow as pa

MOST_SITUATIONS = 40
MOST_SEARCHES = 12
LARGEST = 1_500_000  # characters of JSON, of the dialogues and of the searches each
EXAMPLES = 2  # situations shown without scripts

Rows = list[dict[str, Any]]


def dialogues_of_situations(
    rollouts: Mapping[str, pa.Table],
    votes: Sequence[pa.Table],
    emotions: Mapping[str, str],
    rule: OutcomeRule,
    seed: int,
) -> Rows:
    """What every policy said on some situations, and what every judge said of it.

    Situations are taken in an order that seed and id decide, until there are `MOST_SITUATIONS` or the next one would
    take them beyond `LARGEST`; the first one is always there. So no result has a say in what is shown.

    Args:
        rollouts: tables of `schemas.TRAJECTORIES` by policy.
        votes: tables of `schemas.JUDGE_VOTES`.
        emotions: the labels by situation.
        rule: see `votes.outcomes`.
        seed: of the run.
    """
    played = {situation for table in rollouts.values() for situation in table["situation_id"].unique().to_pylist()}
    drawn = _in_drawn_order(played, MOST_SITUATIONS, seed)
    messages = {policy: _by_situation(table, drawn) for policy, table in rollouts.items()}
    answers = [_by_situation(table, drawn) for table in votes]

    def shown(situation: str) -> dict[str, Any]:
        return {
            "id": situation,
            "emotion": emotions.get(situation, "no label"),
            "dialogues": {policy: _dialogue(of[situation]) for policy, of in messages.items() if of.get(situation)},
            "votes": _votes([row for of in answers for row in of.get(situation, ())], rule),
        }

    return _that_fit(drawn, shown)


def searches(trajectories: pa.Table, candidates: pa.Table, emotions: Mapping[str, str], seed: int) -> Rows:
    """Some dialogues of a search, each turn of the agent with all its candidates (paper Figure 4).

    Which ones, is decided as in `dialogues_of_situations`, with `MOST_SEARCHES`.

    Args:
        trajectories: a table of `schemas.TRAJECTORIES`.
        candidates: the table of `schemas.CANDIDATES` of the same search.
        emotions: the labels by situation.
        seed: of the run.
    """
    drawn = _in_drawn_order(trajectories["situation_id"].unique().to_pylist(), MOST_SEARCHES, seed)
    messages, sampled = _by_situation(trajectories, drawn), _by_situation(candidates, drawn)

    def shown(situation: str) -> dict[str, Any]:
        by_turn: dict[int, Rows] = {}
        for row in sorted(sampled.get(situation, ()), key=lambda row: row["candidate"]):
            by_turn.setdefault(row["turn"], []).append(_candidate(row))
        dialogue = _dialogue(messages[situation])
        for place, turn in zip(sorted(row["turn"] for row in messages[situation]), dialogue["turns"], strict=True):
            turn["candidates"] = by_turn.get(place, [])
        return {"id": situation, "emotion": emotions.get(situation, "no label"), **dialogue}

    return _that_fit(drawn, shown)


def as_json(rows: object) -> str:
    """JSON that can stand inside a script element: no character of it can end the element or the line."""
    text = json.dumps(rows, separators=(",", ":"))  # other than ASCII is escaped, U+2028 and U+2029 with it
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _in_drawn_order(ids: Iterable[str], most: int, seed: int) -> list[str]:
    return sorted(ids, key=lambda id_: (derived_seed(seed, "shown in the report", id_), id_))[:most]


def _that_fit(drawn: Sequence[str], shown: Callable[[str], dict[str, Any]]) -> Rows:
    """In the order of their ids, so that a reader finds them again."""
    rows: Rows = []
    size = 0
    for situation in drawn:
        row = shown(situation)
        size += len(as_json(row))
        if rows and size > LARGEST:
            break
        rows.append(row)
    return sorted(rows, key=lambda row: str(row["id"]))


def _by_situation(table: pa.Table, situations: Sequence[str]) -> dict[str, Rows]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = table.filter(pc.is_in(table["situation_id"], value_set=pa.array(situations, pa.string())))
    found: dict[str, Rows] = {}
    for row in kept.to_pylist():
        found.setdefault(row["situation_id"], []).append(row)
    return found


def _dialogue(messages: Rows) -> dict[str, Any]:
    messages = sorted(messages, key=lambda row: row["turn"])
    return {"outcome": messages[0]["outcome"], "turns": [_turn(row) for row in messages]}


def _turn(row: Mapping[str, Any]) -> dict[str, Any]:
    turn = {"role": row["role"], "text": row["text"]}
    return turn | _blocks(row) if row["role"] == "assistant" else turn


def _blocks(row: Mapping[str, Any]) -> dict[str, Any]:
    """State and action as (motivation, emotion, topics), where they are there."""
    return {
        block: [row[f"{prefix}motivation"], row[f"{prefix}emotion"], row[f"{prefix}topics"]]
        for block, prefix in (("state", "u_"), ("action", "a_"))
        if row[f"{prefix}topics"] is not None
    }


def _candidate(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["valid"]:
        return {"number": row["candidate"] + 1, "text": row["utterance"], "chosen": row["chosen"], **_blocks(row)}
    return {"number": row["candidate"] + 1, "text": row["text"], "chosen": row["chosen"], "why": row["invalid_reason"]}


def _votes(rows: Rows, rule: OutcomeRule) -> Rows:
    """Of every judge and pair what each order brought, and what comes of both; a person may be asked once."""
    decided = {
        (row["policy_a"], row["policy_b"], row["judge"]): row["outcome"]
        for row in to_rows(outcomes(from_rows(rows, JUDGE_VOTES), rule))
    }
    asked: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        asked.setdefault((row["policy_a"], row["policy_b"], row["judge"]), {})[row["order"]] = row
    shown = []
    for (policy_a, policy_b, judge), by_order in asked.items():
        names = {"a": policy_a, "b": policy_b}
        shown.append(
            {
                "a": policy_a,
                "b": policy_b,
                "judge": judge,
                "answers": [_name(by_order, order, names) for order in ORDERS],
                "outcome": names.get(decided[policy_a, policy_b, judge], "tie"),
                "wrote": [by_order[order]["raw_response"] if order in by_order else None for order in ORDERS],
            }
        )
    return shown


def _name(by_order: Mapping[str, Mapping[str, Any]], order: str, names: Mapping[str, str]) -> str:
    vote = by_order[order]["vote"] if order in by_order else "not asked"
    return names.get(vote, vote)
