"""Intervals by a bootstrap over situations.

A situation is what was drawn at random; its two orders, its pairs of policies and its judges are not independent of
each other, so a replicate weighs whole situations. The bootstrap is the Bayesian one (Rubin 1981): in place of how
often a situation is drawn, each gets a random weight (exponential of mean 1), and none ever drops out. With it comes
one made-up observation, spread evenly over what it could have been. Without that, a policy that won every time would
win every time in each replicate too, and the interval would shrink to a point however few situations there are.
For a plain share the replicates are then draws from Jeffreys' Beta(wins + 1/2, losses + 1/2), whose interval holds
its level down to few observations (Brown, Cai and DasGupta 2001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage_dialog.core.seeds import generator

if TYPE_CHECKING:
    import numpy as np

CHUNK = 4_000_000  # weights held at a time
LEAST = 1e-6  # a weight of half a situation may come out as 0, of which there are no log-odds


@dataclass(frozen=True)
class Bootstrap:
    """How intervals on votes are made: their confidence, such as 0.95, the number of replicates, the run's seed."""

    confidence: float
    replicates: int
    seed: int

    def totals(self, observed: np.ndarray, pseudo_counts: np.ndarray, weight: float, *item: str) -> np.ndarray:
        """Sums over situations under random weights: a row is one replicate.

        Args:
            observed: a row is what one situation adds to each sum; in any order.
            pseudo_counts: rows of observations that were not made.
            weight: of each of these, in situations.
            item: what the replicates are of; its name seeds them.
        """
        import numpy as np

        # Situations that add the same count together: a sum of exponential weights is a gamma weight.
        rows, counts = np.unique(observed, axis=0, return_counts=True)
        rows = np.concatenate([rows, pseudo_counts]).astype(float)
        shapes = np.concatenate([counts, np.full(len(pseudo_counts), weight)])
        draw = generator(self.seed, "bootstrap", *item)
        size = max(1, CHUNK // len(rows))
        chunks = [min(size, self.replicates - done) for done in range(0, self.replicates, size)]
        # einsum and not @: the sums must not depend on how many threads a linear algebra library takes.
        return np.concatenate(
            [
                np.einsum("rs,sk->rk", np.maximum(draw.standard_gamma(shapes, (chunk, len(rows))), LEAST), rows)
                for chunk in chunks
            ]
        )

    def interval(self, replicates: np.ndarray, value: float) -> tuple[float, float]:
        """Percentiles of a statistic's replicates, stretched to its value where that stands at the end of its range."""
        import numpy as np

        tail = (1 - self.confidence) / 2
        low, high = np.quantile(replicates, [tail, 1 - tail])
        return min(float(low), value), max(float(high), value)
