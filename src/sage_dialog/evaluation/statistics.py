"""Tests and intervals. Replies of one dialogue are not independent, and the intervals here know it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat


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
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"{successes} successes of {n}: give 0 <= successes <= n and n > 0")
    z = _normal_quantile(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half))


@cache
def _normal_quantile(share: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(share))


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
    return counted_share(Counter(zip(successes, sizes, strict=True)), confidence)


def counted_share(clusters: Mapping[tuple[float, int], int], confidence: float) -> Estimate:
    """`clustered_share` of clusters that are counted: how many of them have how many (successes, observations)."""
    share, variance, n, number = _ratio(clusters)
    if number == 1 or share in (0.0, 1.0):
        effective = float(number)
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

    mean, variance, n, clusters = _ratio(Counter(zip(totals, sizes, strict=True)))
    half = math.inf if clusters == 1 else float(t.ppf(0.5 + confidence / 2, clusters - 1)) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, n)


def _ratio(clusters: Mapping[tuple[float, int], int]) -> tuple[float, float, int, int]:
    """(ratio, its linearised variance over clusters, observations, clusters)."""
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
    """The sum of values that occur so many times, rounded once: it depends on no order."""
    return math.fsum(chain.from_iterable(repeat(value, number) for value, number in values))
