"""Differences of benchmark scores between a policy and a reference policy, item by item (paper Table 2).

Both policies answer the same items, so scores are compared in pairs: the interval of the relative difference is a
bootstrap over items, and if an item is right or wrong, p is McNemar's exact test, the sign test on the items that only
one of the two gets right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.statistics import holm, sign_test
from sage_dialog.schemas import BENCHMARK_SCORES


@dataclass(frozen=True)
class Score:
    """The score of one policy on one task by one metric.

    `items` are its values item by item, in an order that is the same for all policies; None if the score is not their
    mean. `part_of` is the configured group of tasks that this task belongs to. `chance` is the expected score of
    guessing; None where items are not multiple choice.
    """

    task: str
    part_of: str | None
    metric: str
    score: float
    standard_error: float | None
    n: int
    few_shot: int
    higher_is_better: bool
    chance: float | None
    items: tuple[float, ...] | None


def benchmark_scores(by_policy: Mapping[str, Sequence[Score]], bootstrap: Bootstrap) -> DataFrame:
    """Return a table of `schemas.BENCHMARK_SCORES`; the first policy is the one that the others are compared with."""
    if not by_policy:
        return from_rows([], BENCHMARK_SCORES)
    against, *others = by_policy
    first = {(score.task, score.metric): score for score in by_policy[against]}
    rows = [{**vars(score), "policy": against} for score in first.values()]
    for policy in others:
        compared = []
        for score in by_policy[policy]:
            before = first[score.task, score.metric]
            difference = {"against": against, "difference": score.score - before.score}
            tests = _relative(before, score, policy, bootstrap) | _mcnemar(before, score)
            compared.append({**vars(score), "policy": policy, **difference, **tests})
        # Parts of a group are in its score, and are not tested as well.
        tested = [row for row in compared if row["p_value"] is not None and row["part_of"] is None]
        for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
            row["p_adjusted"] = adjusted
        rows += compared
    return from_rows(rows, BENCHMARK_SCORES)


def _relative(before: Score, after: Score, policy: str, bootstrap: Bootstrap) -> dict[str, float]:
    """Return the relative difference, with its interval if items are scored from 0 to 1; {} if the first score is 0."""
    if not before.score:
        return {}
    value = after.score / before.score - 1
    if before.items is None or after.items is None:
        return {"relative": value}
    observed = np.array([before.items, after.items]).T
    if observed.min() < 0 or observed.max() > 1:
        return {"relative": value}
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    totals = bootstrap.totals(observed, corners, 1 / len(corners), "benchmark", before.task, before.metric, policy)
    low, high = bootstrap.interval(totals[:, 1] / totals[:, 0] - 1, value)
    return {"relative": value, "low": low, "high": high}


def _mcnemar(before: Score, after: Score) -> dict[str, Any]:
    if before.items is None or after.items is None or not {*before.items, *after.items} <= {0.0, 1.0}:
        return {"p_value": None}
    pairs = list(zip(before.items, after.items, strict=True))
    lost, won = pairs.count((1.0, 0.0)), pairs.count((0.0, 1.0))
    return {"lost": lost, "won": won, "p_value": sign_test(lost, won)}


def mean_of(values: Sequence[Any], score: float) -> tuple[float, ...] | None:
    """Return the values of items if they are numbers and `score` is their mean, else None."""
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    is_mean = math.isclose(math.fsum(values) / len(values), score, rel_tol=1e-9, abs_tol=1e-12)
    return tuple(map(float, values)) if is_mean else None
