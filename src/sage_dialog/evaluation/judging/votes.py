"""Judged pairs: each pair of dialogues is read in both orders (paper §3.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint
from tqdm import tqdm

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, conform, from_rows
from sage_dialog.evaluation.judging.people import PEOPLE, PERSON, is_human
from sage_dialog.evaluation.rollouts import dialogues_by_policy, same_situations
from sage_dialog.evaluation.statistics import holm, sign_test
from sage_dialog.roles.protocols import Comparison, Judge
from sage_dialog.schemas import JUDGE_VOTES, WIN_RATES

ORDERS = ("ab", "ba")
PAIR = ["judge", "policy_a", "policy_b"]
_VOTES = {
    "ab": {"first": "a", "second": "b", "tie": "tie", "unreadable": "unreadable"},
    "ba": {"first": "b", "second": "a", "tie": "tie", "unreadable": "unreadable"},
}


def collect_votes(rollouts: DataFrame, pairs: Sequence[tuple[str, str]], judge: Judge) -> DataFrame:
    """Return the judge's votes on all pairs in both orders, as a table of `schemas.JUDGE_VOTES`.

    Args:
        pairs: the compared policies, as (a, b).
        judge: reads both dialogues without blocks and without the policies' names.

    Raises:
        ValueError: naming a policy that is missing, or a situation that only one policy of a pair played.
    """
    dialogues = dialogues_by_policy(rollouts)
    votes: list[dict[str, str | None]] = []
    comparisons: list[Comparison] = []
    for policy_a, policy_b in pairs:
        for situation in same_situations(dialogues, policy_a, policy_b):
            a, b = dialogues[policy_a][situation], dialogues[policy_b][situation]
            for order in ORDERS:
                votes.append({"situation_id": situation, "policy_a": policy_a, "policy_b": policy_b, "order": order})
                comparisons.append(Comparison(a, b) if order == "ab" else Comparison(b, a))
    verdicts = tqdm(judge.judge(comparisons), f"judging with {judge.name}", total=len(comparisons), unit="comparison")
    for vote, verdict in zip(votes, verdicts, strict=True):
        vote["judge"] = judge.name
        vote["vote"] = _VOTES[str(vote["order"])][verdict.vote]
        vote["raw_response"] = verdict.raw_response
    return from_rows(votes, JUDGE_VOTES)


def outcomes(votes: DataFrame, rule: OutcomeRule = "agreement") -> DataFrame:
    """Return one row for each judge, pair and situation, pair by pair in order of appearance.

    Args:
        rule: "agreement", the paper's: a policy wins if both orders name it. "half": the policy that more orders name
            wins. "first_order": order ab alone decides. All else is a tie. The single vote of a person is the outcome
            under each rule.

    Returns:
        Columns `judge`, `policy_a`, `policy_b`, `situation_id`; the votes `ab` and `ba`, of which a person has one;
        `kind`: "win" (all votes name one policy), "tie", "inconsistent" or "unreadable"; `outcome`: "a", "b" or "tie".

    Raises:
        ValueError: naming a situation that was not judged exactly once in each order.
    """
    judged = _pair_votes(votes)
    # The single vote of a person stands for both orders.
    ab, ba = judged["ab"].fillna(judged["ba"]).to_numpy(object), judged["ba"].fillna(judged["ab"]).to_numpy(object)
    unreadable = (ab == "unreadable") | (ba == "unreadable")
    kind = np.select([unreadable, ab != ba, ab == "tie"], ["unreadable", "inconsistent", "tie"], "win")
    if rule == "half":
        lead = ((ab == "b").astype(int) + (ba == "b")) - ((ab == "a").astype(int) + (ba == "a"))
        outcome = np.select([lead < 0, lead > 0], ["a", "b"], "tie")
    else:
        decided = kind == "win" if rule == "agreement" else ab != "unreadable"
        outcome = np.where(decided, ab, "tie")
    return judged.assign(kind=kind, outcome=outcome)


def win_rates(votes: DataFrame, confidence: float, rule: OutcomeRule = "agreement") -> DataFrame:
    """Return a table of `schemas.WIN_RATES`, in order of appearance.

    `win_rate_b` is b's share of the decided situations, with Jeffreys' interval. The p-value is that of the exact
    two-sided sign test on the decided, adjusted by Holm's method for all pairs of the same judge. Several raters have
    rows of their own and rows of the judge `PEOPLE`, where a situation goes to the policy that more of them name; all
    rows of people are one family for Holm's method.
    """
    judged = outcomes(votes, rule)
    judged = pd.concat([judged, _pool_people(judged)], ignore_index=True)
    kind, outcome = judged["kind"], judged["outcome"]
    counted = judged[PAIR].assign(
        n=1,
        wins_a=outcome == "a",
        ties=outcome == "tie",
        wins_b=outcome == "b",
        both_say_tie=kind == "tie",
        inconsistent=kind == "inconsistent",
        unreadable=kind == "unreadable",
    )
    rates = counted.groupby(PAIR, sort=False, as_index=False).sum()
    wins_b = rates["wins_b"].to_numpy(float)
    decided = rates["wins_a"].to_numpy(float) + wins_b
    shares = _share_of_decided(wins_b, decided, confidence)
    rates[["win_rate_b", "low", "high"]] = pd.DataFrame(shares.T, columns=range(3), index=rates.index)
    rates["p_value"] = [sign_test(*wins) for wins in zip(rates["wins_a"], rates["wins_b"], strict=True)]
    rates["p_adjusted"] = rates.groupby(holm_families(rates["judge"]), sort=False)["p_value"].transform(holm)
    return conform(rates.assign(rule=rule), WIN_RATES)


def holm_families(judges: pd.Series) -> pd.Series:
    """Return the family of tests of each row's judge: the judge itself, and of all people together one."""
    return judges.where(~judges.map(is_human).astype(bool), PEOPLE)


def _pool_people(judged: DataFrame) -> DataFrame:
    """Return rows as of `outcomes` for what raters judged, by majority; none if there are fewer than two raters."""
    of_people = judged[judged["judge"].str.startswith(PERSON)]
    if of_people["judge"].nunique() < 2:
        return judged[:0]
    item = ["policy_a", "policy_b", "situation_id"]
    lead = of_people["outcome"].map({"a": -1, "b": 1, "tie": 0}).astype(int)
    pooled = of_people[item].assign(lead=lead).groupby(item, sort=False, as_index=False)["lead"].sum()
    pooled = pooled.assign(judge=PEOPLE, outcome=np.select([pooled["lead"] < 0, pooled["lead"] > 0], ["a", "b"], "tie"))
    pooled["kind"] = np.where(pooled["lead"] == 0, "tie", "win")
    return pooled.drop(columns="lead")


def _pair_votes(votes: DataFrame) -> DataFrame:
    """Return each judged situation with its votes in both orders, pair by pair, as columns `ab` and `ba`."""
    cell = [*PAIR, "situation_id"]
    by_pair = votes.iloc[votes.groupby(PAIR, sort=False).ngroup().argsort(kind="stable")]
    cells, places = by_pair.groupby(cell, sort=False).ngroup().to_numpy(), (by_pair["order"] == "ba").to_numpy(int)
    if (repeated := pd.Series(2 * cells + places).duplicated()).any():
        vote = by_pair[repeated.to_numpy()].iloc[0]
        raise ValueError(f"{_describe(vote)} was judged twice as {vote['order']}")
    judged = by_pair[cell].iloc[np.unique(cells, return_index=True)[1]].reset_index(drop=True)
    of_cell = np.full((len(ORDERS), len(judged)), None, dtype=object)
    of_cell[places, cells] = by_pair["vote"]
    missing = pd.isna(of_cell)
    if (invalid := missing.any(axis=0) & ~judged["judge"].str.startswith(PERSON).to_numpy(bool)).any():
        order = ORDERS[missing[:, invalid][:, 0].argmax()]
        raise ValueError(f"{_describe(judged[invalid].iloc[0])} was not judged in order {order}")
    return judged.assign(**dict(zip(ORDERS, of_cell, strict=True))).astype(dict.fromkeys(ORDERS, votes["vote"].dtype))


def _describe(row: pd.Series) -> str:
    return f"situation {row['situation_id']!r} of {row['policy_a']} against {row['policy_b']} (judge {row['judge']})"


def _share_of_decided(wins: np.ndarray, decided: np.ndarray, confidence: float) -> np.ndarray:
    """Return three rows: the share of wins and the ends of Jeffreys' interval; NaN where nothing was decided.

    A share of 0 or 1 is in its interval (Brown, Cai and DasGupta 2001).
    """
    decided = np.where(decided > 0, decided, np.nan)
    low, high = proportion_confint(wins, decided, 1 - confidence, method="jeffreys")
    share = wins / decided
    return np.array([share, np.where(share == 0, 0.0, low), np.where(share == 1, 1.0, high)])
