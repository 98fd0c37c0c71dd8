"""Number of situations that a comparison needs: the exact power of the sign test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import binom, norm

from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.judging.votes import holm_families
from sage_dialog.schemas import SAMPLE_SIZES


def sign_test_power(situations: int, share: float, decided: float, level: float) -> float:
    """Return the probability that the exact two-sided sign test detects a difference.

    Args:
        situations: number of judged situations; how many of them are decided is random.
        share: the better policy's true share of the decided, such as 0.6.
        decided: the share of situations that are not ties.
        level: the p-value up to which a difference is detected, such as 0.05.
    """
    sizes = np.arange(situations + 1)
    return float(binom.pmf(sizes, situations, decided) @ _powers(sizes, share, level))


def situations_needed(share: float, decided: float, level: float, power: float) -> int:
    """Return the smallest number of situations from which on the test's power stays at `power` or above.

    The power of an exact test falls a little each time that its threshold moves, so that it may be reached earlier.

    Raises:
        ValueError: if the share is one half, which no number detects, or nothing is ever decided.
    """
    if share == 0.5 or decided <= 0:
        raise ValueError(f"no number of situations shows a share of {share} where {decided:.0%} are decided")
    longest = math.ceil(1.3 * _normal_sizes(share, level, power) + 150)
    powers = _powers(np.arange(longest + 1), share, level)
    lowest_from = np.minimum.accumulate(powers[::-1])[::-1]  # increases with the size, as bisection requires

    def expected(situations: int, by_size: np.ndarray) -> float:
        sizes = np.arange(min(situations, longest) + 1)
        return float(binom.pmf(sizes, situations, decided) @ by_size[: len(sizes)]) + float(
            binom.sf(longest, situations, decided) * by_size[-1]
        )

    low, high = 0, math.ceil(1.5 * longest / decided)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if expected(middle, lowest_from) >= power else (middle, high)
    # The random number of decided situations smooths the power, which may hold earlier than its lower bound.
    while high > 1 and expected(high - 1, powers) >= power:
        high -= 1
    return high


def sample_sizes(win_rates: DataFrame, true_shares: Sequence[float], confidence: float, power: float) -> DataFrame:
    """Return what a run of this size can detect, as a table of `schemas.SAMPLE_SIZES`.

    For each judge and pair, with the share of situations that the judge decides in this pair: the pair tested alone, at
    1 - confidence, and tested with all pairs of the judge, at the strictest step of Holm's method; people are one judge
    there. The largest number needed at that step is the number for all pairs of the judge.

    Args:
        true_shares: the differences to detect, as the better policy's true share of the decided.
        power: the probability with which to detect them, such as 0.8.
    """
    find_needed = cache(situations_needed)
    rows = []
    for _, rates in win_rates.groupby(holm_families(win_rates["judge"]), sort=False):
        for rate in to_rows(rates):
            decided = (rate["wins_a"] + rate["wins_b"]) / rate["n"]
            for pairs in sorted({1, len(rates)}):
                level = (1 - confidence) / pairs
                rows += [
                    {
                        "judge": rate["judge"],
                        "policy_a": rate["policy_a"],
                        "policy_b": rate["policy_b"],
                        "pairs": pairs,
                        "level": level,
                        "decided": decided,
                        "true_share": share,
                        "n": rate["n"],
                        "power": sign_test_power(rate["n"], share, decided, level),
                        "wanted_power": power,
                        "needed": find_needed(share, decided, level, power) if decided else None,
                    }
                    for share in true_shares
                ]
    return from_rows(rows, SAMPLE_SIZES)


def _powers(sizes: np.ndarray, share: float, level: float) -> np.ndarray:
    """Return the test's power for each number of decided situations."""
    most = binom.ppf(level / 2, sizes, 0.5)  # fewest wins outside the lower tail, or one below
    most -= binom.cdf(most, sizes, 0.5) > level / 2
    return binom.cdf(most, sizes, share) + binom.sf(sizes - most - 1, sizes, share)


def _normal_sizes(share: float, level: float, power: float) -> float:
    """Return the number of decided situations needed, by the normal approximation."""
    reach = norm.isf(level / 2) / 2 + norm.ppf(power) * math.sqrt(share * (1 - share))
    return float(reach / (share - 0.5)) ** 2
