"""Sections with dialogues and searches, for the page's browsers and for readers without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sage_dialog.config import Evaluation, OutcomeRule
from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.tables import DataFrame
from sage_dialog.evaluation.judging.votes import ORDERS, PAIR, outcomes
from sage_dialog.evaluation.report.formatting import OUTCOME_RULES, group_rows
from sage_dialog.evaluation.report.page import render_section, script_data
from sage_dialog.evaluation.report.sections.judging import has_people

MOST_SITUATIONS = 40
MOST_SEARCHES = 12
LARGEST = 1_500_000  # characters of JSON, of the dialogues and of the searches each
EXAMPLES = 2  # situations without scripts

Row = Mapping[str, Any]
Rows = list[dict[str, Any]]


def dialogues(
    evaluation: Evaluation, seed: int, situations: DataFrame, rollouts: DataFrame, judge_votes: DataFrame
) -> str:
    """Return dialogues of all policies on some situations, with the judges' votes.

    Args:
        judge_votes: a table of `schemas.JUDGE_VOTES`, with the votes by a truth.
    """
    chosen = dialogues_by_situation(rollouts, judge_votes, emotion_labels(situations), evaluation.outcome_rule, seed)
    policies = rollouts["policy"].unique().tolist()
    last_pair = [policy for policy in evaluation.pairs[-1] if policy in policies] if evaluation.pairs else []
    return render_section(
        "dialogues",
        rule=OUTCOME_RULES[evaluation.outcome_rule],
        people=has_people(judge_votes["judge"].unique()),
        dialogues=chosen,
        played=rollouts["situation_id"].nunique(),
        examples=EXAMPLES,
        data=script_data({"policies": policies, "ticked": last_pair or policies[:2], "rows": chosen}),
    )


def searches(seed: int, selector: str, situations: DataFrame, trajectories: DataFrame, candidates: DataFrame) -> str:
    """Return some searched dialogues of the last iteration, with all candidates (paper Figure 4)."""
    chosen = searched_dialogues(trajectories, candidates, emotion_labels(situations), seed)
    return render_section(
        "searches",
        selector=selector,
        searches=chosen,
        searched=trajectories["situation_id"].nunique(),
        data=script_data({"rows": chosen}),
    )


def emotion_labels(situations: DataFrame) -> dict[str, str]:
    """Return the label of each situation."""
    return dict(zip(situations["situation_id"], situations["emotion"], strict=True))


def dialogues_by_situation(
    rollouts: DataFrame, votes: DataFrame, emotions: Mapping[str, str], rule: OutcomeRule, seed: int
) -> Rows:
    """Return the dialogues of every policy on some situations, and every judge's votes on them.

    Situations are taken in an order by seed and id, independent of any result, until there are `MOST_SITUATIONS` or
    the next one would exceed `LARGEST`; the first one is always taken.

    Args:
        rollouts: a table of `schemas.ROLLOUTS`.
        votes: a table of `schemas.JUDGE_VOTES`.
        emotions: the labels by situation.
        rule: see `votes.outcomes`.
        seed: the run's.
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

    Args:
        trajectories: a table of `schemas.TRAJECTORIES`.
        candidates: the table of `schemas.CANDIDATES` of the same search.
        emotions: the labels by situation.
        seed: the run's.
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
    return {"outcome": messages[0]["outcome"], "turns": [_turn(row) for row in messages]}


def _turn(row: Row) -> dict[str, Any]:
    turn = {"role": row["role"], "text": row["text"]}
    return turn | _blocks(row) if row["role"] == "assistant" else turn


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
    written = {(*(row[name] for name in PAIR), row["order"]): row["raw_response"] for row in votes}
    described = []
    for row in judged:
        pair = tuple(row[name] for name in PAIR)
        names = {"a": row["policy_a"], "b": row["policy_b"], None: "no answer"}
        described.append(
            {
                "a": row["policy_a"],
                "b": row["policy_b"],
                "judge": row["judge"],
                "answers": [names.get(row[order], row[order]) for order in ORDERS],
                "outcome": names.get(row["outcome"], row["outcome"]),
                "wrote": [written.get((*pair, order)) for order in ORDERS],
            }
        )
    return described
