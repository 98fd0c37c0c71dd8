"""Tests and intervals for observations that come in clusters, such as the replies of dialogues."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import binomtest
from scipy.stats import t as student

from sage_dialog.core.tables import DataFrame


@dataclass(frozen=True)
class Estimate:
    """A value, its confidence interval, and the number of observations."""

    value: float
    low: float
    high: float
    n: int


def sign_test(wins_a: int, wins_b: int) -> float:
    """Return the exact two-sided p-value of the sign test; 1 if nothing was decided."""
    decided = wins_a + wins_b
    return float(binomtest(wins_b, decided, 0.5).pvalue) if decided else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method, in their order."""
    # statsmodels' multipletests gives the same values, but runs a full garbage collection, 0.2 s, on each call.
    unadjusted = np.asarray(p_values, dtype=float)
    order = unadjusted.argsort(kind="stable")
    adjusted = np.empty_like(unadjusted)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, unadjusted[order] * np.arange(len(order), 0, -1)))
    return adjusted.tolist()


def proportion_interval(successes: float, n: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval; successes and n may be fractional, such as an effective sample size.

    Raises:
        ValueError: if n is not positive or successes are not between 0 and n.
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"{successes} successes of {n}: give 0 <= successes <= n and n > 0")
    # statsmodels' proportion_confint takes 70 times as long, and misses 0 and 1 by a rounding error.
    z = float(ndtri(0.5 + confidence / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half))


def clustered_share(successes: Iterable[float], sizes: Iterable[int], confidence: float) -> Estimate:
    """Return the share of successes among observations that come in clusters.

    The interval is Wilson's at the effective sample size n / deff (Korn and Graubard 1998): deff is the variance of
    the ratio estimate between clusters over that of independent draws. A share of 0 or 1 has no variance; each
    cluster then counts as one observation. So does a single cluster.

    Args:
        successes: successes of each cluster; fractional if an observation is a score in [0, 1].
        sizes: observations of each cluster; empty clusters are ignored.

    Raises:
        ValueError: if all clusters are empty.
    """
    return counted_share(Counter(zip(successes, sizes, strict=True)), confidence)


def counted_share(clusters: Mapping[tuple[float, int], int], confidence: float) -> Estimate:
    """Return `clustered_share` of clusters given as counts: (successes, size) to the number of such clusters."""
    share, variance, n, number = _ratio(clusters)
    if number == 1 or share in (0.0, 1.0):
        effective = float(number)
    else:
        independent = share * (1 - share) / n
        # At most n: clusters that are alike by chance are no additional evidence.
        effective = min(float(n), n * independent / variance) if variance > 0 else float(n)
    low, high = proportion_interval(share * effective, effective, confidence)
    return Estimate(share, low, high, n)


def clustered_shares(observations: DataFrame, by: Sequence[str], confidence: float) -> DataFrame:
    """Return `clustered_share` of each group of rows, as columns `value`, `low`, `high` and `n` after those of `by`.

    Args:
        observations: columns `successes`, `size`, `situation_id`, which names the cluster, and those of `by`.
        by: columns that define a group; groups without an observation are left out.
    """
    clusters = observations.groupby([*by, "situation_id"], sort=False)[["successes", "size"]].sum()
    shares = []
    for group, sums in clusters[clusters["size"] > 0].groupby(level=list(by), sort=False):
        share = clustered_share(sums["successes"].tolist(), sums["size"].tolist(), confidence)
        shares.append(dict(zip(by, group, strict=True)) | asdict(share))
    return pd.DataFrame(shares, columns=[*by, "value", "low", "high", "n"])


def mean_scores(external_scores: DataFrame, confidence: float, exchange: int | None = None) -> DataFrame:
    """Return the mean of each statistic and policy, both in order of appearance, with situations as clusters.

    Args:
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
    return clustered_shares(scores.assign(successes=scores["value"], size=1), ["statistic", "policy"], confidence)


def clustered_mean(totals: Sequence[float], sizes: Sequence[int], confidence: float) -> Estimate:
    """Return the mean of observations that come in clusters, with Student's interval over the clusters.

    A single cluster has no variance; its interval is unbounded.
    """
    mean, variance, n, clusters = _ratio(Counter(zip(totals, sizes, strict=True)))
    half = math.inf if clusters == 1 else float(student.ppf(0.5 + confidence / 2, clusters - 1)) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, n)


def _ratio(clusters: Mapping[tuple[float, int], int]) -> tuple[float, float, int, int]:
    """Return the ratio, its linearised variance over clusters, the number of observations and of clusters."""
    filled = [(total, size, number) for (total, size), number in clusters.items() if size]
    if not filled:
        raise ValueError("there is no observation to average; no dialogue holds a reply")
    n, found = sum(size * number for _, size, number in filled), sum(number for _, _, number in filled)
    ratio = _exact_sum((total, number) for total, _, number in filled) / n
    if found == 1:
        return ratio, 0.0, n, found
    squares = _exact_sum(((total - ratio * size) ** 2, number) for total, size, number in filled)
    return ratio, found / (found - 1) * squares / n**2, n, found


def _exact_sum(values: Iterable[tuple[float, int]]) -> float:
    """Return the sum of (value, count) pairs, rounded once and so independent of their order."""
    return math.fsum(chain.from_iterable(repeat(value, number) for value, number in values))
