"""Agreement between judges: raw agreement, Cohen's kappa, and whether they name the same winner.

What two judges would agree on by chance is expected within each pair of policies. Over all pairs together, two judges
that only know which policies are weak would agree beyond chance on every situation (Simpson's paradox).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.votes import outcomes
from sage_dialog.evaluation.statistics import clustered_share
from sage_dialog.schemas import JUDGE_AGREEMENT

OUTCOMES = ["a", "b", "tie"]


def judge_agreement(votes: DataFrame, bootstrap: Bootstrap, rule: OutcomeRule = "agreement") -> DataFrame:
    """Compare every two judges on what both judged, as a table of `schemas.JUDGE_AGREEMENT`.

    The first row of two judges is of all pairs of policies, `policy_a` and `policy_b` null; then a row for each pair.

    `agreement` is the share of equal outcomes (a, b, tie). `kappa` is Cohen's: agreement beyond that expected from the
    two judges' shares of a, b and tie within the pair (1 is full agreement, 0 is chance; null if both always give the
    same single outcome). That of all pairs is stratified: the mean of the pairs' kappas, weighted by their situations
    and by what chance leaves open (Barlow, Lai and Azen 1991). `same_winner` is the share of equal winners where both
    judges name one. `same_by_lot` is its expectation if, within each pair, each judge assigned its wins to situations
    at random: the agreement of two judges that only know which policy is better. Intervals take situations as
    clusters. Judges without a common situation have no row.
    """
    judged = outcomes(votes, rule)[["judge", "policy_a", "policy_b", "situation_id", "outcome"]]
    judged["outcome"] = pd.Index(OUTCOMES).get_indexer(judged["outcome"])
    by_judge = {judge: rows.drop(columns="judge") for judge, rows in judged.groupby("judge", sort=False)}
    rows = []
    for (judge_a, of_a), (judge_b, of_b) in combinations(by_judge.items(), 2):
        both = of_a.merge(of_b, on=["policy_a", "policy_b", "situation_id"], suffixes=("_a", "_b"))
        if both.empty:
            continue
        cells = _count_cells(both)
        rows.append({"judge_a": judge_a, "judge_b": judge_b} | _compare(cells, bootstrap, judge_a, judge_b))
        for place, pair in enumerate(both[["policy_a", "policy_b"]].drop_duplicates().itertuples(index=False)):
            of_pair = cells[:, [place]][cells[:, place].any(axis=(1, 2))]
            row = {"judge_a": judge_a, "judge_b": judge_b, **pair._asdict()}
            rows.append(row | _compare(of_pair, bootstrap, judge_a, judge_b, *pair))
    return from_rows(rows, JUDGE_AGREEMENT)


def _count_cells(both: DataFrame) -> np.ndarray:
    """Return counts by situation, pair in order of appearance, outcome of judge a and outcome of judge b."""
    situations, ids = pd.factorize(both["situation_id"])
    pairs = both.groupby(["policy_a", "policy_b"], sort=False).ngroup().to_numpy()
    cells = np.zeros((len(ids), pairs.max() + 1, len(OUTCOMES), len(OUTCOMES)), dtype=int)
    np.add.at(cells, (situations, pairs, both["outcome_a"], both["outcome_b"]), 1)
    return cells


def _compare(cells: np.ndarray, bootstrap: Bootstrap, *item: str) -> dict[str, Any]:
    """Return agreement, kappa and equal winners from counts as of `_count_cells`."""
    by_situation = cells.sum(axis=1)
    same = np.trace(by_situation, axis1=1, axis2=2)
    agreement = clustered_share(same.tolist(), by_situation.sum(axis=(1, 2)).tolist(), bootstrap.confidence)
    winners = by_situation[:, :2, :2]
    decided = winners.sum(axis=(1, 2))
    row: dict[str, Any] = {**vars(agreement), "agreement": agreement.value, "decided": int(decided.sum())}
    total = cells.sum(axis=0)
    if (total.sum(axis=(1, 2)) > _expected(total)).any():
        row["kappa"] = float(_kappa(total))
        ways = cells[0].size
        totals = bootstrap.totals(cells.reshape(-1, ways), np.eye(ways), 1 / ways, "kappa", *item)
        replicates = _kappa(totals.reshape(-1, *total.shape))
        row["kappa_low"], row["kappa_high"] = bootstrap.interval(replicates, row["kappa"])
    if decided.any():
        named = np.trace(winners, axis1=1, axis2=2)
        winner = clustered_share(named.tolist(), decided.tolist(), bootstrap.confidence)
        row |= {"same_winner": winner.value, "same_low": winner.low, "same_high": winner.high}
        row["same_by_lot"] = float(_expected(total[:, :2, :2]).sum()) / row["decided"]
    return row


def _expected(tables: np.ndarray) -> np.ndarray:
    """Return how many equal outcomes chance gives in each table of two judges; 0 in an empty one."""
    n = tables.sum(axis=(-2, -1))
    products = np.einsum("...i,...i->...", tables.sum(axis=-1), tables.sum(axis=-2))
    return np.divide(products, n, out=np.zeros(n.shape), where=n > 0)


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa over the tables of several pairs, which are the third last axis."""
    n, expected = tables.sum(axis=(-2, -1)), _expected(tables)
    observed = np.trace(tables, axis1=-2, axis2=-1)
    return (observed - expected).sum(axis=-1) / (n - expected).sum(axis=-1)
