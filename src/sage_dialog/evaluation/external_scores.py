"""Means of scores that no role gave, such as the truth of a generated world."""

from __future__ import annotations

from sage_dialog.core.tables import DataFrame
from sage_dialog.evaluation.statistics import clustered_shares


def mean_scores(external_scores: DataFrame, confidence: float, exchange: int | None = None) -> DataFrame:
    """Return the mean of each statistic and policy, both in order of appearance, with situations as clusters.

    Args:
        external_scores: a table of `schemas.EXTERNAL_SCORES`.
        confidence: such as 0.95.
        exchange: the only exchange to average; None averages all.

    Returns:
        Columns `statistic`, `policy`, `value`, `low`, `high`, `n`.

    Raises:
        ValueError: naming a row whose value is outside [0, 1].
    """
    invalid = external_scores[~external_scores["value"].between(0, 1)]
    if len(invalid):
        raise ValueError(f"external score {invalid.iloc[0].to_dict()} is not between 0 and 1")
    scores = external_scores if exchange is None else external_scores[external_scores["exchange"] == exchange]
    return clustered_shares(
        scores.assign(successes=scores["value"], size=1), ["statistic", "policy"], "situation_id", confidence
    )
