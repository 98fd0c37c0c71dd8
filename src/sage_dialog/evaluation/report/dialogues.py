"""Dialogues and searches of the report: all of them, compressed in the page.

The page finds dialogues by an index of votes and replies, and unpacks the parts that it shows::

    {"index": compressed, "parts": [compressed, …]}    # each as by `page.compressed`

A part holds some situations with their dialogues. Parts are built and packed one by one, so that few are in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sage_dialog.config import OutcomeRule
from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.tables import DataFrame
from sage_dialog.evaluation.dialogue_rows import Rows, dialogue_row, grouped_rows, search_row, vote_rows
from sage_dialog.evaluation.judging.length import count_words
from sage_dialog.evaluation.judging.votes import ORDERS, outcomes
from sage_dialog.evaluation.replies.emotions import UNMAPPED, UNNAMED
from sage_dialog.evaluation.report.page import compressed

IN_PART, SEARCHES_IN_PART = 32, 8  # situations
MOST_SEARCHED = 8_000_000  # characters of the compressed searches
OPENING = 70  # characters
NO_LABEL = "no label"

Failures = dict[tuple[str, str], dict[int, list[str]]]  # by policy and situation, then exchange


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
        failing: schemas.FAILING_REPLIES.
        examples: how many situations are drawn by seed, whatever their outcome.
    """
    ids = sorted(rollouts["situation_id"].unique())
    votes = votes[votes["situation_id"].isin(ids)]
    judged = outcomes(votes, rule)
    failures: Failures = {}
    keys = ["policy", "situation_id", "exchange", "failure"]
    for policy, situation, exchange, failure in failing[keys].itertuples(index=False, name=None):
        failures.setdefault((policy, situation), {}).setdefault(exchange, []).append(failure)

    def describe(situations: Sequence[str], messages: DataFrame, votes: DataFrame, judged: DataFrame) -> Rows:
        by_dialogue = grouped_rows(messages, "situation_id", "policy")
        answers, outcomes_of = grouped_rows(votes, "situation_id"), grouped_rows(judged, "situation_id")
        return [
            {
                "id": situation,
                "label": labels.get(situation, NO_LABEL),
                "dialogues": {
                    policy: dialogue_row(by_dialogue[situation, policy], failures.get((policy, situation), {}))
                    for policy in policies
                    if (situation, policy) in by_dialogue
                },
                "votes": vote_rows(answers.get((situation,), []), outcomes_of.get((situation,), [])),
            }
            for situation in situations
        ]

    policies = rollouts["policy"].unique().tolist()
    drawn = set(_draw(ids, seed)[:examples])
    shown: Rows = []
    parts: list[str] = []
    situations: Rows = []
    written = rollouts.drop(columns="content")  # of which the page shows the parts; it is half of the table
    for number, (block, *tables) in enumerate(_in_blocks(ids, IN_PART, written, votes, judged)):
        rows = describe(block, *tables)
        shown += [row for row in rows if row["id"] in drawn]
        parts.append(compressed(rows))
        for place, row in enumerate(rows):
            opening = next(iter(row["dialogues"].values()))["turns"][0]["text"][:OPENING]
            situations.append({"id": row["id"], "label": row["label"], "opening": opening, "part": [number, place]})
    index = {
        "situations": _columns(situations),
        "votes": _vote_index(judged, ids, count_words(rollouts)),
        "replies": _reply_index(rollouts, ids, readings, failures),
    }
    return Embedded({"index": compressed(index), "parts": parts}, len(ids), shown)


def embed_searches(trajectories: DataFrame, candidates: DataFrame, labels: Mapping[str, str], seed: int) -> Embedded:
    """Return the dialogues of a search, each turn of the agent with all its candidates.

    All situations, or as many as fit into `MOST_SEARCHED`, drawn by seed and id.
    """
    drawn = _draw(trajectories["situation_id"].unique(), seed)
    parts: list[str] = []
    situations: Rows = []
    examples: Rows = []
    for block, *tables in _in_blocks(drawn, SEARCHES_IN_PART, trajectories.drop(columns="content"), candidates):
        messages, sampled = (grouped_rows(table, "situation_id") for table in tables)
        rows = [search_row(id_, messages[id_,], sampled.get((id_,), []), labels.get(id_, NO_LABEL)) for id_ in block]
        part = compressed(rows)
        if parts and sum(map(len, parts)) + len(part) > MOST_SEARCHED:
            break
        for place, row in enumerate(rows):
            opening = row["turns"][0]["text"][:OPENING]
            situations.append({"id": row["id"], "label": row["label"], "opening": opening, "part": [len(parts), place]})
        parts.append(part)
        examples = examples or rows[:1]
    index = _columns(sorted(situations, key=lambda row: str(row["id"])))
    return Embedded({"index": compressed(index), "parts": parts}, len(situations), examples)


def _draw(ids: Iterable[str], seed: int) -> list[str]:
    return sorted(ids, key=lambda id_: (derived_seed(seed, "shown in the report", id_), id_))


def _in_blocks(ids: Sequence[str], size: int, *tables: DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield `size` situations after the other, in this order, each time with their rows of every table."""
    ordered = []
    for table in tables:  # sorted once, since slices of Arrow columns are free and picked rows are not
        places = np.array(_positions(table["situation_id"], ids), dtype=int)
        order = np.argsort(places, kind="stable")
        edges = np.searchsorted(places[order], range(0, len(ids) + size, size))
        ordered.append((table.iloc[order], edges))
    for number, start in enumerate(range(0, len(ids), size)):
        yield ids[start : start + size], *(table.iloc[edges[number] : edges[number + 1]] for table, edges in ordered)


def _columns(rows: Rows) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in ("id", "label", "opening", "part")}


def _vote_index(judged: DataFrame, ids: Sequence[str], words: DataFrame) -> dict[str, Any]:
    """Return columns of the judged pairs of dialogues; "longer" is the policy, "a" or "b", that writes more words."""
    for side in ("a", "b"):
        of_side = words.rename(columns={"policy": f"policy_{side}", "words": f"words_{side}"})
        judged = judged.merge(of_side, how="left", on=[f"policy_{side}", "situation_id"])
    a, b = (judged[column].fillna(0) for column in ("words_a", "words_b"))
    return {
        "situation": _positions(judged["situation_id"], ids),
        **_coded("judge", "judges", judged["judge"].tolist()),
        **_coded("pair", "pairs", list(zip(judged["policy_a"], judged["policy_b"], strict=True))),
        **{column: _values(judged[column]) for column in (*ORDERS, "kind", "outcome")},
        "longer": np.select([a > b, b > a], ["a", "b"], "").tolist(),
    }


def _reply_index(rollouts: DataFrame, ids: Sequence[str], readings: DataFrame, failures: Failures) -> dict[str, Any]:
    """Return columns of the replies: what they name and read (null without blocks), and how they fail."""
    keys = ["policy", "situation_id", "exchange"]
    replies = rollouts.loc[rollouts["role"] == "assistant", ["policy", "situation_id", "turn"]]
    replies = replies.sort_values(["policy", "situation_id", "turn"], kind="stable")
    exchange = replies.groupby(["policy", "situation_id"]).cumcount().add(1).astype("int32[pyarrow]")
    replies = replies.assign(exchange=exchange)[keys].merge(readings, how="left", on=keys)
    named, mapped, with_blocks = (_values(replies[column]) for column in ("named", "mapped", "label"))
    return {
        "situation": _positions(replies["situation_id"], ids),
        **_coded("policy", "policies", replies["policy"].tolist()),
        "exchange": replies["exchange"].tolist(),
        "named": named,
        "read": [
            None if label is None else _predicted(*names)
            for label, *names in zip(with_blocks, named, mapped, strict=True)
        ],
        "failures": [
            failures.get((policy, situation), {}).get(exchange, [])
            for policy, situation, exchange in replies[keys].itertuples(index=False, name=None)
        ],
    }


def _values(column: pd.Series) -> list[Any]:
    """Return the values of a column; null is None."""
    return column.astype(object).where(column.notna(), None).tolist()


def _predicted(named: str | None, mapped: str | None) -> str:
    """Return what a reply with blocks reads, as `emotions.emotion_confusion` counts it."""
    return mapped if mapped is not None else UNNAMED if named is None else UNMAPPED


def _positions(situations: pd.Series, ids: Sequence[str]) -> list[int]:
    return list(pd.Index(ids, dtype=object).get_indexer(pd.Index(situations, dtype=object)).tolist())


def _coded(column: str, different: str, values: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the different values in order of appearance, and as a column the index of each row's value."""
    codes: dict[str, int] = {}
    places = [codes.setdefault(json.dumps(value), len(codes)) for value in values]
    return {different: [json.loads(value) for value in codes], column: places}
