"""How many situations a comparison needs: the exact power of the sign test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def sign_test_power(situations: int, share: float, decided: float, level: float) -> float:
    """The probability that the exact two-sided sign test sees a difference, ties and all.

    Args:
        situations: how many are judged; how many of them are decided is itself chance.
        share: the better policy's true share of the decided, such as 0.6.
        decided: the share of situations that are no tie.
        level: the p-value up to which a difference counts as seen, such as 0.05.
    """
    import numpy as np
    from scipy.stats import binom

    sizes = np.arange(situations + 1)
    return float(binom.pmf(sizes, situations, decided) @ _powers(sizes, share, level))


def situations_needed(share: float, decided: float, level: float, power: float) -> int:
    """The smallest number of situations from which on the test's power stays at `power` or above.

    From which on, because the power of an exact test falls a little each time that its threshold moves.

    Raises:
        ValueError: if the share is one half, which no number shows, or nothing is ever decided.
    """
    import numpy as np
    from scipy.stats import binom

    if share == 0.5 or decided <= 0:
        raise ValueError(f"no number of situations shows a share of {share} where {decided:.0%} are decided")
    longest = math.ceil(1.3 * _normal_sizes(share, level, power) + 150)
    powers = _powers(np.arange(longest + 1), share, level)
    lowest_from = np.minimum.accumulate(powers[::-1])[::-1]  # rises with the size, so that halving finds the place

    def expected(situations: int, by_size: np.ndarray) -> float:
        sizes = np.arange(min(situations, longest) + 1)
        return float(binom.pmf(sizes, situations, decided) @ by_size[: len(sizes)]) + float(
            binom.sf(longest, situations, decided) * by_size[-1]
        )

    low, high = 0, math.ceil(1.5 * longest / decided)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if expected(middle, lowest_from) >= power else (middle, high)
    # Chance in how many are decided smooths the power; it may hold a little earlier than its lower bound says.
    while high > 1 and expected(high - 1, powers) >= power:
        high -= 1
    return high


def sample_sizes(
    win_rates: Sequence[Mapping[str, Any]], true_shares: Sequence[float], confidence: float, power: float
) -> list[dict[str, Any]]:
    """What a run of this size can see, as rows of `schemas.SAMPLE_SIZES`.

    For each judge, with the share of decided situations that it had over all its pairs: tested alone, at
    1 - confidence, and tested with all pairs of the judge, at the strictest step of Holm's method.

    Args:
        win_rates: rows of `schemas.WIN_RATES`.
        true_shares: the differences to see, as the better policy's true share of the decided.
        confidence: such as 0.95.
        power: the probability with which to see them, such as 0.8.
    """
    rows = []
    for judge in dict.fromkeys(row["judge"] for row in win_rates):
        asked = [row for row in win_rates if row["judge"] == judge]
        decided = sum(row["wins_a"] + row["wins_b"] for row in asked) / sum(row["n"] for row in asked)
        situations = min(row["n"] for row in asked)
        for pairs in sorted({1, len(asked)}):
            level = (1 - confidence) / pairs
            rows += [
                {
                    "judge": judge,
                    "pairs": pairs,
                    "level": level,
                    "decided": decided,
                    "true_share": share,
                    "n": situations,
                    "power": sign_test_power(situations, share, decided, level),
                    "wanted_power": power,
                    "needed": situations_needed(share, decided, level, power) if decided else None,
                }
                for share in true_shares
            ]
    return rows


def _powers(sizes: np.ndarray, share: float, level: float) -> np.ndarray:
    """Of the test on each number of decided situations."""
    from scipy.stats import binom

    most = binom.ppf(level / 2, sizes, 0.5)  # fewest wins that are no longer in the lower tail, or one below
    most -= binom.cdf(most, sizes, 0.5) > level / 2
    return binom.cdf(most, sizes, share) + binom.sf(sizes - most - 1, sizes, share)


def _normal_sizes(share: float, level: float, power: float) -> float:
    """Decided situations needed, by the normal approximation."""
    from scipy.stats import norm

    reach = norm.isf(level / 2) / 2 + norm.ppf(power) * math.sqrt(share * (1 - share))
    return float(reach / (share - 0.5)) ** 2
