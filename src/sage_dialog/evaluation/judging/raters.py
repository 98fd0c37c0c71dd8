"""Agreement of all raters together: Krippendorff's alpha (2011) of nominal outcomes, with missing votes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.people import PERSON
from sage_dialog.evaluation.judging.votes import outcomes
from sage_dialog.schemas import RATER_AGREEMENT

OUTCOMES = ["a", "b", "tie"]


def rater_agreement(votes: DataFrame, bootstrap: Bootstrap) -> DataFrame:
    """Return how far people agree on the outcomes (a, b, tie), as a table of `schemas.RATER_AGREEMENT`.

    The first row is of all pairs of policies, `policy_a` and `policy_b` null; then a row for each pair. Only situations
    that at least two raters judged count; there is no row without one. `alpha` is 1 for full agreement and 0 for
    chance, which is expected within each pair of policies; it is null if all votes are the same outcome. The interval
    is a bootstrap over situations.
    """
    judged = outcomes(votes[votes["judge"].str.startswith(PERSON)])
    item = ["policy_a", "policy_b", "situation_id"]
    judged = judged[judged.groupby(item)["judge"].transform("nunique") > 1] if len(judged) else judged
    if judged.empty:
        return from_rows([], RATER_AGREEMENT)
    cells = _coincidences(judged)
    rows: list[dict[str, Any]] = [_alpha_row(judged, cells, bootstrap)]
    for place, (pair, of_pair) in enumerate(judged.groupby(["policy_a", "policy_b"], sort=False)):
        row = dict(zip(("policy_a", "policy_b"), pair, strict=True))
        rows.append(row | _alpha_row(of_pair, cells[:, [place]], bootstrap, *pair))
    return from_rows(rows, RATER_AGREEMENT)


def _coincidences(judged: DataFrame) -> np.ndarray:
    """Return by situation, pair, outcome and outcome how often two raters of an item gave the two outcomes.

    An item with m raters adds m in total: each of its ordered pairs of raters adds 1 / (m - 1).
    """
    situations, ids = pd.factorize(judged["situation_id"])
    pairs = judged.groupby(["policy_a", "policy_b"], sort=False).ngroup().to_numpy()
    counts = np.zeros((len(ids), pairs.max() + 1, len(OUTCOMES)))
    np.add.at(counts, (situations, pairs, pd.Index(OUTCOMES).get_indexer(judged["outcome"])), 1)
    ordered = counts[..., :, None] * counts[..., None, :] - counts[..., None] * np.eye(len(OUTCOMES))
    return ordered / np.maximum(1, counts.sum(axis=-1) - 1)[..., None, None]


def _alpha_row(judged: DataFrame, cells: np.ndarray, bootstrap: Bootstrap, *item: str) -> dict[str, Any]:
    row = {
        "raters": judged["judge"].nunique(),
        "n": len(judged[["policy_a", "policy_b", "situation_id"]].drop_duplicates()),
        "votes": len(judged),
    }
    total = cells.sum(axis=0)
    if not _chance(total).any():
        return row
    alpha = float(_alpha(total))
    ways = total.size
    totals = bootstrap.totals(cells.reshape(len(cells), -1), np.eye(ways), 1 / ways, "alpha", *item)
    low, high = bootstrap.interval(_alpha(totals.reshape(-1, *total.shape)), alpha)
    return row | {"alpha": alpha, "low": low, "high": high}


def _chance(coincidences: np.ndarray) -> np.ndarray:
    """Return how many different outcomes chance gives in each pair of policies."""
    marginals = (coincidences.sum(axis=-1) + coincidences.sum(axis=-2)) / 2
    n = marginals.sum(axis=-1)
    different = n**2 - np.square(marginals).sum(axis=-1)
    return np.divide(different, n - 1, out=np.zeros(n.shape), where=n > 1)


def _alpha(coincidences: np.ndarray) -> np.ndarray:
    """Return alpha over several pairs of policies, which are the third last axis."""
    different = coincidences.sum(axis=(-2, -1)) - np.trace(coincidences, axis1=-2, axis2=-1)
    return 1 - different.sum(axis=-1) / _chance(coincidences).sum(axis=-1)
