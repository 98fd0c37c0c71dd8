"""A ranking from all pairs: the Bradley-Terry model, with a bootstrap over situations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.votes import outcomes
from sage_dialog.schemas import RANKING

PSEUDO_WINS = 0.5  # wins, and as many losses, of each policy against score 0
MAX_STEP = 1.0  # log-odds per Newton step; full steps overshoot if one side won nearly everything
MAX_STEPS = 100
TOLERANCE = 1e-4  # of the last step; errors decrease with its square, and rounding allows no less in flat places


def ranking(votes: DataFrame, bootstrap: Bootstrap, rule: OutcomeRule = "agreement") -> DataFrame:
    """Return every judge's ranking of the policies, best first, as a table of `schemas.RANKING`.

    The log-odds that b beats a are score b - score a; a tie is half a win for each. Half a win and half a loss against
    score 0 are added for every policy, so that one that won or lost everything has a finite score. Scores have mean 0
    within a group, which is the policies linked by chains of comparisons; scores and ranks of different groups cannot
    be compared.
    """
    judges = outcomes(votes, rule).groupby("judge", sort=False)
    return from_rows([row for judge, judged in judges for row in _of_judge(judge, judged, bootstrap)], RANKING)


def _of_judge(judge: str, judged: DataFrame, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    pairs = judged[["policy_a", "policy_b"]].drop_duplicates()
    policies = pd.Index(pairs.to_numpy().ravel()).unique()
    ends = policies.get_indexer(pairs.to_numpy().ravel()).reshape(-1, 2)
    # Groups are linked by chains of comparisons.
    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(policies), len(policies)))
    groups = connected_components(links, directed=False)[1]
    # Columns: see bradley_terry.
    observed = np.pad(_points(judged, len(pairs)), ((0, 0), (0, 2 * len(policies))))
    pseudo_counts = np.eye(observed.shape[1])[2 * len(pairs) :]
    totals = bootstrap.totals(observed, pseudo_counts, PSEUDO_WINS, "ranking", judge)
    once = observed.sum(axis=0) + PSEUDO_WINS * pseudo_counts.sum(axis=0)
    scores = _centred(bradley_terry(ends, once[None]), groups)
    replicates = _centred(bradley_terry(ends, totals), groups)
    ranks, replicate_ranks = _ranks(scores, groups)[0], _ranks(replicates, groups)
    rows: list[dict[str, Any]] = []
    for index, policy in enumerate(policies):
        score, rank = float(scores[0, index]), int(ranks[index])
        low, high = bootstrap.interval(replicates[:, index], score)
        best, worst = bootstrap.interval(replicate_ranks[:, index], rank)
        n = int(((judged["policy_a"] == policy) | (judged["policy_b"] == policy)).sum())
        row = {"judge": judge, "group": int(groups[index]) + 1, "policy": policy, "n": n}
        row |= {"rank": rank, "best_rank": math.floor(best), "worst_rank": math.ceil(worst)}
        rows.append(row | {"score": score, "low": low, "high": high})
    return sorted(rows, key=lambda row: (row["group"], row["rank"]))


def bradley_terry(ends: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Return the maximum likelihood scores of the policies for many replicates at once.

    Args:
        ends: the two policies (a, b) of each pair, by number.
        totals: a row is one replicate: the points of a in each pair, those of b in each pair, then each policy's
            pseudo-wins and its pseudo-losses against score 0; the latter two are above 0.

    Returns:
        A row of scores (log-odds) for each replicate.
    """
    policies = (totals.shape[1] - 2 * len(ends)) // 2
    points_a, points_b, wins, losses = np.split(totals, np.cumsum([len(ends), len(ends), policies]), axis=1)
    design = np.zeros((len(ends) + policies, policies))  # the sign with which a policy's score enters a comparison
    design[np.arange(len(ends)), ends[:, 0]] = -1
    design[np.arange(len(ends)), ends[:, 1]] = 1
    design[len(ends) :] = np.eye(policies)
    won = np.concatenate([points_b, wins], axis=1)
    played = won + np.concatenate([points_a, losses], axis=1)
    scores = np.zeros((len(totals), policies))
    for _ in range(MAX_STEPS):
        expected = expit(np.einsum("rk,dk->rd", scores, design))
        gradient = np.einsum("rd,dk->rk", won - played * expected, design)
        hessian = np.einsum("rd,dk,dl->rkl", played * expected * (1 - expected), design, design)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        step *= np.minimum(1, MAX_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))
        scores += step
        if np.abs(step).max() < TOLERANCE:
            return scores
    raise ArithmeticError(f"the scores of a ranking did not converge in {MAX_STEPS} steps")


def _points(judged: DataFrame, pairs: int) -> np.ndarray:
    """Return a row for each situation: the points of a in each pair, then those of b."""
    situations, ids = pd.factorize(judged["situation_id"])
    points = np.zeros((len(ids), 2, pairs))
    columns = judged.groupby(["policy_a", "policy_b"], sort=False).ngroup()
    for side, policy in enumerate(("a", "b")):
        points[situations, side, columns] = judged["outcome"].map({policy: 1.0, "tie": 0.5}).fillna(0.0)
    return points.reshape(len(ids), -1)


def _centred(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return scores less the mean of their group."""
    member = np.eye(groups.max() + 1)[groups]
    return scores - np.einsum("rk,kg,lg->rl", scores, member / member.sum(axis=0), member)


def _ranks(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return one more than the number of policies of the group with a higher score; rounding errors are ties."""
    higher = scores[:, :, None] > scores[:, None, :] + 1e-9
    return 1 + (higher & (groups[:, None] == groups)).sum(axis=1)
