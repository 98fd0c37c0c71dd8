"""Biases of judges: by order, position, and relation to what they judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, conform, from_rows, to_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.votes import PAIR, outcomes
from sage_dialog.evaluation.statistics import clustered_shares
from sage_dialog.schemas import JUDGE_CHECKS, SELF_PREFERENCE

RELATIONS = (None, "same base", "same model")  # from distant to close


def judge_checks(votes: DataFrame, confidence: float) -> DataFrame:
    """Return shares of each judge over all its pairs, as a table of `schemas.JUDGE_CHECKS`.

    order_flips: pairs of dialogues, both votes readable, on which the vote changes with the order. names_first: votes
    that name a dialogue and name the one read first; unbiased is one half. says_tie: readable votes that name none.
    unreadable: of all votes. Intervals take situations as clusters. A person votes once on each pair, in a random
    order: nothing can flip, and unbiased is one half as well. A statistic without observations has no row. The effect
    of length differs between pairs of policies: see `length.length_control`.

    `by_chance`, of order_flips alone, is the share expected if the judge's answers on a pair of policies were assigned
    to its dialogues and orders at random; see `_flips_by_chance`.
    """
    judged = outcomes(votes)
    kind = judged["kind"]
    twice = judged["ab"].notna() & judged["ba"].notna()
    vote, named = votes["vote"], votes["vote"].isin(["a", "b"])
    counts = {  # statistic: (rows, successes, observations)
        "order_flips": (judged, kind == "inconsistent", twice & (kind != "unreadable")),
        "names_first": (votes, named & (votes["order"].str[0] == vote), named),
        "says_tie": (votes, vote == "tie", vote != "unreadable"),
        "unreadable": (votes, vote == "unreadable", vote.notna()),
    }
    checks = pd.concat(
        [
            clustered_shares(
                rows.assign(statistic=statistic, successes=(found & among).astype(int), size=among.astype(int)),
                ["judge", "statistic"],
                confidence,
            )
            for statistic, (rows, found, among) in counts.items()
        ]
    )
    chance = _flips_by_chance(judged[twice & (kind != "unreadable")])
    checks["by_chance"] = checks["judge"].map(chance).where(checks["statistic"] == "order_flips")
    judges = pd.Index(votes["judge"].unique())
    return conform(checks.iloc[judges.get_indexer(checks["judge"]).argsort(kind="stable")], JUDGE_CHECKS)


def _flips_by_chance(judged: DataFrame) -> pd.Series:
    """Return by judge the share of pairs of dialogues whose answers would differ if they were assigned at random.

    Two answers agree if both are ties or if they name different places. Of f, s and t answers on a pair of policies
    that name the dialogue read first, the second, and none, two drawn at random agree with the probability
    (t (t - 1) + 2 f s) / (n (n - 1)), n = f + s + t. The share is the mean over pairs of policies, weighted by their
    dialogues: of all answers together it would be larger where ties are more frequent in some pairs than in others.

    Args:
        judged: `outcomes` with two readable votes.
    """
    ab, ba = judged["ab"].to_numpy(object), judged["ba"].to_numpy(object)
    answers = judged[PAIR].assign(
        first=(ab == "a").astype(int) + (ba == "b"),
        second=(ab == "b").astype(int) + (ba == "a"),
        tie=(ab == "tie").astype(int) + (ba == "tie"),
        dialogues=1,
    )
    sums = answers.groupby(PAIR, sort=False).sum()
    number = 2 * sums["dialogues"]
    agree = (sums["tie"] * (sums["tie"] - 1) + 2 * sums["first"] * sums["second"]) / (number * (number - 1))
    weighted = pd.DataFrame({"flips": (1 - agree) * sums["dialogues"], "dialogues": sums["dialogues"]})
    by_judge = weighted.groupby(level="judge", sort=False).sum()
    return by_judge["flips"] / by_judge["dialogues"]


def self_preference(
    votes: DataFrame, policy_cards: DataFrame, bootstrap: Bootstrap, rule: OutcomeRule = "agreement"
) -> DataFrame:
    """Return whether a judge favours what is made from its own model, as a table of `schemas.SELF_PREFERENCE`.

    A judge's model is the first word of its name, such as "mistralai/Mixtral-8x7B-Instruct-v0.1" of
    "mistralai/Mixtral-8x7B-Instruct-v0.1 judge 1a2b3c4d". A policy is the same model if its name, or as a base the
    name of its base, is that one, and has the same base if only its base is; the last part of a path counts, in any
    case. A pair has a row if one of its policies is closer to the judge than the other. A tie is half a win.

    A judge that prefers its own kind may be right. It is therefore compared with the neutral judges, to which neither
    policy is closer: with the mean of those that judged a situation, on the situations that at least one of them
    judged. The interval of the difference is a bootstrap over these situations. Without a neutral judge the difference
    is null: preference and quality cannot be separated.

    Raises:
        ValueError: naming a policy that was judged and has no card.
    """
    cards = {card["policy"]: card for card in to_rows(policy_cards)}
    judged = outcomes(votes, rule)
    judged["points"] = judged["outcome"].map({"a": 0.0, "tie": 0.5, "b": 1.0})
    rows = []
    for policies, of_pair in judged.groupby(["policy_a", "policy_b"], sort=False):
        if missing := [policy for policy in policies if policy not in cards]:
            raise ValueError(
                f"{missing[0]} was judged, but the table `policy_cards` does not hold it; run both again: "
                f"kedro run --pipelines evaluation"
            )
        points = {
            judge: of_judge.set_index("situation_id")["points"]
            for judge, of_judge in of_pair.groupby("judge", sort=False)
        }
        closeness = {judge: [_closeness(judge, cards[policy]) for policy in policies] for judge in points}
        neutral = [judge for judge, (to_a, to_b) in closeness.items() if to_a == to_b]
        for judge, (to_a, to_b) in closeness.items():
            if to_a == to_b:
                continue
            other, policy = policies if to_b > to_a else policies[::-1]
            row = {"judge": judge, "policy": policy, "relation": RELATIONS[max(to_a, to_b)], "other_policy": other}
            of_policy = points if to_b > to_a else {judge: 1 - of_b for judge, of_b in points.items()}
            others = [of_policy[judge] for judge in neutral]
            rows.append(row | _preference(of_policy[judge], others, bootstrap, (judge, *policies)))
    return from_rows(rows, SELF_PREFERENCE)


def _closeness(judge: str, card: Mapping[str, Any]) -> int:
    """Return the index in `RELATIONS` of a judge and a policy."""
    model, base = _last_part(judge.split()[0] if judge.split() else ""), _last_part(card["base"])
    if model == _last_part(card["policy"]) or (card["kind"] in ("base", "external") and model == base):
        return 2
    return int(model == base)


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def _preference(
    own: pd.Series, neutral: Sequence[pd.Series], bootstrap: Bootstrap, item: tuple[str, ...]
) -> dict[str, Any]:
    """Return the share of points from the judge and from neutral judges, and the difference with its interval.

    Args:
        own: the closer policy's points by situation, from the judge.
        neutral: the same from each neutral judge.
        item: seeds the interval.
    """
    others = pd.concat(neutral, axis=1).mean(axis=1) if neutral else pd.Series(dtype=float)
    common = own.index[own.index.isin(others.index)]
    if common.empty:
        return {"n": len(own), "share": fmean(own)}
    observed = np.column_stack([own[common], others[common], np.ones(len(common))])
    share, neutral_share = observed[:, :2].mean(axis=0).tolist()
    totals = bootstrap.totals(observed, np.array([[1, 0, 1], [0, 1, 1]]), 1 / 2, "self-preference", *item)
    low, high = bootstrap.interval((totals[:, 0] - totals[:, 1]) / totals[:, 2], share - neutral_share)
    return {
        "n": len(common),
        "share": share,
        "neutral_share": neutral_share,
        "difference": share - neutral_share,
        "low": low,
        "high": high,
    }
