"""Tests and intervals. Replies of one dialogue are not independent, and the intervals here know it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value, its confidence interval, and the number of observations behind it."""

    value: float
    low: float
    high: float
    n: int


def sign_test(wins_a: int, wins_b: int) -> float:
    """Exact two-sided p-value of a fair coin giving this split of the decided; 1 where nothing was decided."""
    from scipy.stats import binomtest

    decided = wins_a + wins_b
    return float(binomtest(wins_b, decided, 0.5).pvalue) if decided else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values tested together, in their order."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def proportion_interval(successes: float, n: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval. Successes and n may be fractional, as an effective sample size is.

    Raises:
        ValueError: if n is not positive or successes are not between 0 and n.
    """
    from scipy.stats import norm

    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"{successes} successes of {n}: give 0 <= successes <= n and n > 0")
    z = float(norm.ppf(0.5 + confidence / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half))


def clustered_share(successes: Sequence[float], sizes: Sequence[int], confidence: float) -> Estimate:
    """Share of successes among observations that come in clusters, such as the replies of dialogues.

    Wilson's interval at the effective sample size n / deff (Korn and Graubard 1998): deff is the variance of
    the ratio estimate between clusters over that of independent draws. A share of 0 or 1, which shows no
    variance, counts one observation a cluster; a single cluster counts as one observation.

    Args:
        successes: successes of each cluster; fractional where an observation is a score in [0, 1].
        sizes: observations of each cluster; those without any are left out.
        confidence: such as 0.95.

    Raises:
        ValueError: if no cluster holds an observation.
    """
    share, variance, n, clusters = _ratio(successes, sizes)
    if clusters == 1 or share in (0.0, 1.0):
        effective = float(clusters)
    else:
        independent = share * (1 - share) / n
        # Never more than n: clusters that happen to be alike are no extra evidence.
        effective = min(float(n), n * independent / variance) if variance > 0 else float(n)
    low, high = proportion_interval(share * effective, effective, confidence)
    return Estimate(share, low, high, n)


def clustered_mean(totals: Sequence[float], sizes: Sequence[int], confidence: float) -> Estimate:
    """Mean of observations that come in clusters, with Student's interval over the clusters.

    The interval is unbounded where a single cluster shows no variance to judge by.
    """
    from scipy.stats import t

    mean, variance, n, clusters = _ratio(totals, sizes)
    half = math.inf if clusters == 1 else float(t.ppf(0.5 + confidence / 2, clusters - 1)) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, n)


def _ratio(totals: Sequence[float], sizes: Sequence[int]) -> tuple[float, float, int, int]:
    """(ratio, its linearised variance over clusters, observations, clusters)."""
    filled = [(total, size) for total, size in zip(totals, sizes, strict=True) if size]
    if not filled:
        raise ValueError("there is no observation to average; no dialogue holds a reply")
    n, clusters = sum(size for _, size in filled), len(filled)
    ratio = math.fsum(total for total, _ in filled) / n
    if clusters == 1:
        return ratio, 0.0, n, clusters
    squares = math.fsum((total - ratio * size) ** 2 for total, size in filled)
    return ratio, clusters / (clusters - 1) * squares / n**2, n, clusters
