"""Intervals by a Bayesian bootstrap over situations (Rubin 1981).

Situations are what was drawn at random. The orders, policy pairs and judges of one situation are not independent, so a
replicate weights whole situations, each with an exponential weight of mean 1; no situation ever drops out.

One pseudo-observation is added, spread evenly over its possible values. Without it a policy that won every time would
win every time in each replicate, and its interval would be a point. For a plain share the replicates are draws from
Jeffreys' Beta(wins + 1/2, losses + 1/2), whose interval keeps its level down to few observations (Brown, Cai and
DasGupta 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage_dialog.core.seeds import generator

CHUNK = 500_000  # weights in memory at a time, which changes no total
MIN_WEIGHT = 1e-6  # the weight of half a situation can be drawn as 0, which has no log-odds


@dataclass(frozen=True)
class Bootstrap:
    """The confidence of intervals, such as 0.95, the number of replicates, and the run's seed."""

    confidence: float
    replicates: int
    seed: int

    def totals(self, observed: np.ndarray, pseudo_counts: np.ndarray, weight: float, *item: str) -> np.ndarray:
        """Return sums over randomly weighted situations, a row for each replicate.

        Args:
            observed: a row is what one situation adds to each sum; the order of rows makes no difference.
            pseudo_counts: rows of pseudo-observations.
            weight: of each pseudo-observation, in situations.
            item: names the statistic; the seed is derived from it.
        """
        # Situations that add the same are counted together: a sum of exponential weights is a gamma weight.
        rows, counts = np.unique(observed, axis=0, return_counts=True)
        rows = np.concatenate([rows, pseudo_counts]).astype(float)
        shapes = np.concatenate([counts, np.full(len(pseudo_counts), weight)])
        draw = generator(self.seed, "bootstrap", *item)
        size = max(1, CHUNK // len(rows))
        totals = []
        for done in range(0, self.replicates, size):
            weights = draw.standard_gamma(shapes, (min(size, self.replicates - done), len(rows)))
            np.maximum(weights, MIN_WEIGHT, out=weights)
            # einsum instead of @: sums must not depend on the number of threads of a linear algebra library.
            totals.append(np.einsum("rs,sk->rk", weights, rows))
        return np.concatenate(totals)

    def interval(self, replicates: np.ndarray, value: float) -> tuple[float, float]:
        """Return the percentiles of a statistic's replicates, extended to include its value."""
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(replicates, [tail, 1 - tail])
        return min(float(low), value), max(float(high), value)
