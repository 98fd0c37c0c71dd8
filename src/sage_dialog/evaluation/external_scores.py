"""Scores from outside the roles, such as what is true of a generated world, averaged by policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_dialog.evaluation.statistics import Estimate, clustered_share

if TYPE_CHECKING:
    import pyarrow as pa


def mean_scores(
    external_scores: pa.Table, confidence: float, exchange: int | None = None
) -> dict[str, dict[str, Estimate]]:
    """By statistic, then policy, the mean of a table of `schemas.EXTERNAL_SCORES`, both in order of appearance.

    Args:
        external_scores: one value in [0, 1] for each policy, situation, statistic and exchange.
        confidence: such as 0.95; intervals take situations as clusters.
        exchange: the only exchange to average; None averages all.

    Raises:
        ValueError: naming a row whose value is outside [0, 1].
    """
    clusters: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in external_scores.to_pylist():
        if not 0 <= row["value"] <= 1:
            raise ValueError(f"outside score {row} is not between 0 and 1")
        if exchange is None or row["exchange"] == exchange:
            by_policy = clusters.setdefault(row["statistic"], {})
            by_policy.setdefault(row["policy"], {}).setdefault(row["situation_id"], []).append(row["value"])
    return {
        statistic: {
            policy: clustered_share(
                [sum(values) for values in by_situation.values()],
                [len(values) for values in by_situation.values()],
                confidence,
            )
            for policy, by_situation in by_policy.items()
        }
        for statistic, by_policy in clusters.items()
    }
