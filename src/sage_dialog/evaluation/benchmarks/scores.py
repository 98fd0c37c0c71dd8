"""What a policy gains or loses on a benchmark, against another, item by item (paper Table 2).

Both policies answer the same items, so scores are compared in pairs: the interval of the relative difference is a
bootstrap over items (`resampling`), and where an item is right or wrong, p is McNemar's exact test, the sign test on
the items that only one of the two gets right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.statistics import holm, sign_test

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Score:
    """What one policy reached on one task by one metric.

    `items` are its values item by item, in an order that is the same for all policies; None where the score is not
    their mean. `part_of` is the asked group of tasks that this task belongs to.
    """

    task: str
    part_of: str | None
    metric: str
    score: float
    standard_error: float | None
    n: int
    few_shot: int
    higher_is_better: bool
    items: tuple[float, ...] | None


def benchmark_scores(by_policy: Mapping[str, Sequence[Score]], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Rows of `schemas.BENCHMARK_SCORES`; the first policy is what the others are compared with."""
    if not by_policy:
        return []
    against, *others = by_policy
    first = {(score.task, score.metric): score for score in by_policy[against]}
    rows = [_row(against, score) for score in first.values()]
    for policy in others:
        compared = []
        for score in by_policy[policy]:
            before = first[score.task, score.metric]
            row = _row(policy, score) | {"against": against, "difference": score.score - before.score}
            compared.append(row | _relative(before, score, policy, bootstrap) | _mcnemar(before, score))
        # Parts of a group stand behind its score, and are not tested beside it.
        tested = [row for row in compared if row["p_value"] is not None and row["part_of"] is None]
        for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
            row["p_adjusted"] = adjusted
        rows += compared
    return rows


def _row(policy: str, score: Score) -> dict[str, Any]:
    return {
        "task": score.task,
        "part_of": score.part_of,
        "policy": policy,
        "metric": score.metric,
        "n": score.n,
        "few_shot": score.few_shot,
        "higher_is_better": score.higher_is_better,
        "score": score.score,
        "standard_error": score.standard_error,
    }


def _relative(before: Score, after: Score, policy: str, bootstrap: Bootstrap) -> dict[str, float]:
    """The relative difference, its interval where items are scored from 0 to 1; nothing where the first score is 0."""
    import numpy as np

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


def mean_of(values: Sequence[float] | None, score: float) -> tuple[float, ...] | None:
    """Values of items, where `score` is their mean."""
    if not values or not math.isclose(math.fsum(values) / len(values), score, rel_tol=1e-9, abs_tol=1e-12):
        return None
    return tuple(map(float, values))


def as_shown(scores: pa.Table) -> dict[str, Any]:
    """For the report: the policy compared with, the others, and by task asked and metric the row of each."""
    lines: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    rows = [row for row in scores.to_pylist() if row["part_of"] is None]
    for row in rows:
        lines.setdefault((row["task"], row["metric"]), {})[row["policy"]] = row
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    return {"against": policies[0] if policies else None, "others": policies[1:], "lines": lines}
