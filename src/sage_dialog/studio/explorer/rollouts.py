"""The rollouts of all policies on one situation side by side, with the votes of every judge on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame
from sage_dialog.evaluation.dialogue_rows import dialogue_row, vote_rows
from sage_dialog.evaluation.judging.votes import outcomes
from sage_dialog.studio.explorer.situations import NO_LABEL, RowsOf, labels_of, values_of

TIE = "tie"


@dataclass(frozen=True)
class RolloutFilter:
    """What is looked for.

    Attributes:
        label: the emotion of the situation.
        outcome: how the dialogue of a policy ended; of any policy where none is named.
        policy: the policy of `outcome`.
        judge: whose vote is looked for, on two policies a and b.
        winner: a policy or `TIE`.
        text: letters of the situation's id or opening, in any case.
    """

    label: str = ""
    outcome: str = ""
    policy: str = ""
    judge: str = ""
    a: str = ""
    b: str = ""
    winner: str = ""
    text: str = ""

    @property
    def of_votes(self) -> bool:
        """Whether votes are looked for."""
        return bool(self.judge or self.a or self.b or self.winner)


class Rollouts:
    """Rollouts and votes by situation, in the order of their ids.

    Args:
        rollouts: a table of `schemas.ROLLOUTS`.
        votes: a table of `schemas.JUDGE_VOTES`.
        situations: a table of `schemas.SITUATIONS`, for their labels.
        rule: how two answers of a judge are one outcome.
    """

    def __init__(
        self, rollouts: DataFrame, votes: DataFrame | None, situations: DataFrame | None, rule: OutcomeRule
    ) -> None:
        self._labels = labels_of(situations)
        self.policies: list[str] = rollouts["policy"].unique().tolist()
        self._messages = RowsOf(rollouts)
        self._votes = None if votes is None else RowsOf(votes)
        judged = None if votes is None else outcomes(votes, rule)
        self._judged = None if judged is None else RowsOf(judged)
        self._winners = None if judged is None else _winners(judged)
        first = rollouts.sort_values("turn", kind="stable").drop_duplicates(["situation_id", "policy"])
        self._ended = first[["situation_id", "policy", "outcome"]].astype(object)
        opening = first.drop_duplicates("situation_id")
        self.situations = pd.DataFrame(
            {
                "id": opening["situation_id"].astype(object).tolist(),
                "opening": opening["text"].astype(object).tolist(),
                "label": [self._labels.get(each, NO_LABEL) for each in opening["situation_id"]],
            }
        ).sort_values("id", ignore_index=True)

    @property
    def choices(self) -> Mapping[str, list[str]]:
        """Values of each filter."""
        judges = [] if self._winners is None else values_of(self._winners["judge"])
        return {
            "label": values_of(self.situations["label"]),
            "outcome": values_of(self._ended["outcome"]),
            "policy": self.policies,
            "judge": judges,
            "winner": [*self.policies, TIE],
        }

    def find(self, wanted: RolloutFilter) -> pd.DataFrame:
        """Return the situations that fit."""
        found = self.situations
        if wanted.label:
            found = found[found["label"] == wanted.label]
        if wanted.text:
            texts = (found["id"] + "\n" + found["opening"]).str.lower()
            found = found[texts.str.contains(wanted.text.strip().lower(), regex=False)]
        if wanted.outcome or (wanted.policy and not wanted.of_votes):
            rows = _equal(self._ended, outcome=wanted.outcome, policy=wanted.policy)
            found = found[found["id"].isin(rows["situation_id"])]
        if wanted.of_votes:
            rows = self._judged_pairs(wanted)
            found = found[found["id"].isin(rows["situation_id"])]
        return found

    def _judged_pairs(self, wanted: RolloutFilter) -> pd.DataFrame:
        if self._winners is None:
            return pd.DataFrame({"situation_id": []})
        rows = _equal(self._winners, judge=wanted.judge, winner=wanted.winner)
        for policy in filter(None, (wanted.a, wanted.b)):
            rows = rows[(rows["policy_a"] == policy) | (rows["policy_b"] == policy)]
        return rows

    def situation(self, situation: str) -> dict[str, Any]:
        """Return the dialogues of all policies on a situation, and the votes on them.

        Raises:
            LookupError: if no policy played it.
        """
        by_policy: dict[str, list[dict[str, Any]]] = {}
        for row in self._messages.of(situation):
            by_policy.setdefault(row["policy"], []).append(row)
        if not by_policy:
            raise LookupError(f"No policy played {situation}.")
        votes = [] if self._votes is None else self._votes.of(situation)
        judged = [] if self._judged is None else self._judged.of(situation)
        dialogues = {policy: dialogue_row(by_policy[policy], {}) for policy in self.policies if policy in by_policy}
        label = self._labels.get(situation, NO_LABEL)
        return {"id": situation, "label": label, "dialogues": dialogues, "votes": vote_rows(votes, judged)}


def with_rule(rule: OutcomeRule) -> Callable[..., Rollouts]:
    """Return a function that builds `Rollouts` from tables."""
    return lambda rollouts, votes, situations: Rollouts(rollouts, votes, situations, rule)


def _winners(judged: DataFrame) -> pd.DataFrame:
    """Return judged pairs with the policy that won, or `TIE`."""
    rows = judged[["situation_id", "judge", "policy_a", "policy_b", "outcome"]].astype(object)
    winner = rows["outcome"].mask(rows["outcome"] == "a", rows["policy_a"])
    return rows.assign(winner=winner.mask(rows["outcome"] == "b", rows["policy_b"]))


def _equal(rows: pd.DataFrame, **values: str) -> pd.DataFrame:
    for column, value in values.items():
        if value:
            rows = rows[rows[column] == value]
    return rows
