"""One ranking from all pairs: Bradley and Terry's model, with a bootstrap over situations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.config import OutcomeRule
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.votes import JudgedPair, Outcome, outcomes

if TYPE_CHECKING:
    import numpy as np

MADE_UP = 0.5  # wins, and as many losses, of each policy against an average one
STEP = 1.0  # log-odds a Newton step at most; whole steps overshoot where one side won nearly everything
STEPS = 100
SETTLED = 1e-4  # the last step; errors go down with its square, and rounding allows no less in flat places


def ranking(
    votes: Iterable[Mapping[str, Any]], bootstrap: Bootstrap, rule: OutcomeRule = "agreement"
) -> list[dict[str, Any]]:
    """Every judge's ranking of the policies, as rows of `schemas.RANKING`, best first.

    The log-odds that b beats a are score b - score a; a tie is half a win for each. To every policy half a win and
    half a loss against one of score 0 are added, so that a policy that won or lost everything has a finite score.
    Scores have mean 0 within a group, which is the policies that chains of comparisons link; scores and ranks of
    different groups cannot be compared.
    """
    judged: dict[str, dict[JudgedPair, dict[str, Outcome]]] = {}
    for pair, by_situation in outcomes(votes, rule).items():
        judged.setdefault(pair.judge, {})[pair] = by_situation
    return [row for judge, pairs in judged.items() for row in _of_judge(judge, pairs, bootstrap)]


def _of_judge(
    judge: str, pairs: Mapping[JudgedPair, Mapping[str, Outcome]], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    import numpy as np

    policies = list(dict.fromkeys(policy for pair in pairs for policy in pair[1:]))
    place = {policy: index for index, policy in enumerate(policies)}
    ends = np.array([(place[pair.policy_a], place[pair.policy_b]) for pair in pairs])
    groups = _linked(ends, len(policies))
    # Columns: see bradley_terry.
    observed = np.pad(_points(list(pairs.values())), ((0, 0), (0, 2 * len(policies))))
    pseudo_counts = np.eye(observed.shape[1])[2 * len(pairs) :]
    totals = bootstrap.totals(observed, pseudo_counts, MADE_UP, "ranking", judge)
    once = observed.sum(axis=0) + MADE_UP * pseudo_counts.sum(axis=0)
    scores = _centred(bradley_terry(ends, once[None]), groups)
    replicates = _centred(bradley_terry(ends, totals), groups)
    ranks, replicate_ranks = _ranks(scores, groups)[0], _ranks(replicates, groups)
    rows = []
    for policy, index in place.items():
        score, rank = float(scores[0, index]), int(ranks[index])
        low, high = bootstrap.interval(replicates[:, index], score)
        best, worst = bootstrap.interval(replicate_ranks[:, index], rank)
        rows.append(
            {
                "judge": judge,
                "group": int(groups[index]) + 1,
                "policy": policy,
                "n": sum(len(situations) for pair, situations in pairs.items() if policy in pair[1:]),
                "rank": rank,
                "best_rank": math.floor(best),
                "worst_rank": math.ceil(worst),
                "score": score,
                "low": low,
                "high": high,
            }
        )
    return sorted(rows, key=lambda row: (row["group"], row["rank"], place[row["policy"]]))


def bradley_terry(ends: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """The scores of the policies, most likely given the points, for many replicates at once.

    Args:
        ends: the two policies (a, b) of each pair, by number.
        totals: a row is one replicate: the points of a in each pair, those of b in each pair, then each policy's
            made-up wins, and its made-up losses, against score 0; all above 0 where made up.

    Returns:
        A row of scores (log-odds) for each replicate.
    """
    import numpy as np
    from scipy.special import expit

    policies = (totals.shape[1] - 2 * len(ends)) // 2
    points_a, points_b, wins, losses = np.split(totals, np.cumsum([len(ends), len(ends), policies]), axis=1)
    design = np.zeros((len(ends) + policies, policies))  # a row is whose score counts for, and whose against
    design[np.arange(len(ends)), ends[:, 0]] = -1
    design[np.arange(len(ends)), ends[:, 1]] = 1
    design[len(ends) :] = np.eye(policies)
    won = np.concatenate([points_b, wins], axis=1)
    played = won + np.concatenate([points_a, losses], axis=1)
    scores = np.zeros((len(totals), policies))
    for _ in range(STEPS):
        expected = expit(np.einsum("rk,dk->rd", scores, design))
        slope = np.einsum("rd,dk->rk", won - played * expected, design)
        curve = np.einsum("rd,dk,dl->rkl", played * expected * (1 - expected), design, design)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        step *= np.minimum(1, STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))
        scores += step
        if np.abs(step).max() < SETTLED:
            return scores
    raise ArithmeticError(f"the scores of a ranking did not settle in {STEPS} steps")


def _points(by_pair: Sequence[Mapping[str, Outcome]]) -> np.ndarray:
    """A row for each situation: the points of a in each pair, then those of b."""
    import numpy as np

    points = {"a": (1.0, 0.0), "tie": (0.5, 0.5), "b": (0.0, 1.0)}
    situations = {situation: row for row, situation in enumerate(sorted(set().union(*by_pair)))}
    found = np.zeros((len(situations), 2, len(by_pair)))
    for column, by_situation in enumerate(by_pair):
        for situation, outcome in by_situation.items():
            found[situations[situation], :, column] = points[outcome]
    return found.reshape(len(situations), -1)


def _linked(ends: np.ndarray, policies: int) -> np.ndarray:
    """The group of each policy, from 0: those that chains of comparisons link."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(policies, policies))
    return connected_components(links, directed=False)[1]


def _centred(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each group of a row around its mean."""
    import numpy as np

    member = np.eye(groups.max() + 1)[groups]
    return scores - np.einsum("rk,kg,lg->rl", scores, member / member.sum(axis=0), member)


def _ranks(scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """One more than the number of policies of its group with a higher score; rounding errors tell none apart."""
    higher = scores[:, :, None] > scores[:, None, :] + 1e-9
    return 1 + (higher & (groups[:, None] == groups)).sum(axis=1)
