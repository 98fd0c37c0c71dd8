"""Agreement between judges: raw agreement, Cohen's kappa, and whether they name the same winner."""

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

    `agreement` is the share of equal outcomes (a, b, tie) over all pairs together. `kappa` is Cohen's: agreement
    beyond that expected from the two judges' shares of a, b and tie (1 is full agreement, 0 is chance; null if both
    always give the same single outcome). `same_winner` is the share of equal winners where both judges name one.
    `same_by_lot` is its expectation if, within each pair, each judge assigned its wins to situations at random: the
    agreement of two judges that only know which policy is better. Intervals take situations as clusters. Judges
    without a common situation have no row.
    """
    judged = outcomes(votes, rule)[["judge", "policy_a", "policy_b", "situation_id", "outcome"]]
    judged["outcome"] = pd.Index(OUTCOMES).get_indexer(judged["outcome"])
    by_judge = {judge: rows.drop(columns="judge") for judge, rows in judged.groupby("judge", sort=False)}
    rows = []
    for (judge_a, of_a), (judge_b, of_b) in combinations(by_judge.items(), 2):
        both = of_a.merge(of_b, on=["policy_a", "policy_b", "situation_id"], suffixes=("_a", "_b"))
        if len(both):
            row = {"judge_a": judge_a, "judge_b": judge_b, "same_by_lot": _same_by_lot(both)}
            rows.append(row | _compare(both, bootstrap, judge_a, judge_b))
    return from_rows(rows, JUDGE_AGREEMENT)


def _compare(both: DataFrame, bootstrap: Bootstrap, judge_a: str, judge_b: str) -> dict[str, Any]:
    """Return agreement, kappa and equal winners from the two judges' outcomes, as indices of `OUTCOMES`."""
    situations, ids = pd.factorize(both["situation_id"])
    cells = np.zeros((len(ids), 3, 3), dtype=int)  # situation × outcome of judge a × outcome of judge b
    np.add.at(cells, (situations, both["outcome_a"], both["outcome_b"]), 1)
    same = np.trace(cells, axis1=1, axis2=2)
    agreement = clustered_share(same.tolist(), cells.sum(axis=(1, 2)).tolist(), bootstrap.confidence)
    decided = cells[:, :2, :2].sum(axis=(1, 2))
    row: dict[str, Any] = {**vars(agreement), "agreement": agreement.value, "decided": int(decided.sum())}
    total = cells.sum(axis=0)
    expected = float(total.sum(axis=1) @ total.sum(axis=0)) / total.sum() ** 2
    if expected < 1:
        row["kappa"] = float(_kappa(total[None])[0])
        totals = bootstrap.totals(cells.reshape(len(cells), -1), np.eye(9), 1 / 9, "kappa", judge_a, judge_b)
        row["kappa_low"], row["kappa_high"] = bootstrap.interval(_kappa(totals.reshape(-1, 3, 3)), row["kappa"])
    if decided.any():
        named = np.trace(cells[:, :2, :2], axis1=1, axis2=2)
        winner = clustered_share(named.tolist(), decided.tolist(), bootstrap.confidence)
        row |= {"same_winner": winner.value, "same_low": winner.low, "same_high": winner.high}
    return row


def _kappa(tables: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa of each table of two judges' outcomes."""
    tables = tables / tables.sum(axis=(1, 2), keepdims=True)
    expected = np.einsum("ri,ri->r", tables.sum(axis=2), tables.sum(axis=1))
    return (np.trace(tables, axis1=1, axis2=2) - expected) / (1 - expected)


def _same_by_lot(both: DataFrame) -> float | None:
    """Return the share of equal winners expected by chance, from each judge's wins of each policy pair."""
    tie = OUTCOMES.index("tie")
    decided = both[(both["outcome_a"] != tie) & (both["outcome_b"] != tie)]
    counts = decided.groupby(["policy_a", "policy_b"], sort=False).agg(
        wins_a=("outcome_a", "sum"), wins_b=("outcome_b", "sum"), n=("outcome_a", "size")
    )
    expected = 0.0
    for wins_a, wins_b, n in counts.itertuples(index=False):
        expected += (wins_a * wins_b + (n - wins_a) * (n - wins_b)) / n
    return expected / len(decided) if len(decided) else None
