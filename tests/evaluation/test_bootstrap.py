"""The bootstrap over situations against closed forms, another bootstrap, and the truth."""

import numpy as np
import pytest
from scipy.stats import beta, binom, bootstrap

from sage_dialog.evaluation.bootstrap import Bootstrap

HALF_EACH = (np.eye(2), 1 / 2)


def share_interval(wins_a: int, wins_b: int, resampling: Bootstrap, *item: str) -> tuple[float, float]:
    observed = np.repeat(np.eye(2, dtype=int), [wins_a, wins_b], axis=0)
    totals = resampling.totals(observed, *HALF_EACH, "share", *item)
    return resampling.interval(totals[:, 1] / totals.sum(axis=1), wins_b / (wins_a + wins_b))


@pytest.mark.parametrize(("wins_a", "wins_b"), [(1, 3), (7, 5), (2, 40), (120, 80)])
def test_a_plain_share_has_jeffreys_interval(wins_a: int, wins_b: int) -> None:
    resampling = Bootstrap(confidence=0.9, replicates=40_000, seed=1)
    expected = beta(wins_b + 0.5, wins_a + 0.5).ppf([0.05, 0.95])
    assert share_interval(wins_a, wins_b, resampling) == pytest.approx(tuple(expected), abs=0.006)


def test_the_interval_equals_that_of_the_bias_corrected_bootstrap_on_much_data() -> None:
    # Situations with one to three answers each, so that a share of answers is a ratio of sums.
    draw = np.random.default_rng(2)
    sizes = draw.integers(1, 4, size=300)
    wins = draw.binomial(sizes, draw.beta(3, 2, size=300))
    other = bootstrap(
        (wins, sizes), lambda won, judged, axis: won.sum(axis) / judged.sum(axis), paired=True, vectorized=True,
        method="BCa", n_resamples=4000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    resampling = Bootstrap(confidence=0.95, replicates=4000, seed=1)
    totals = resampling.totals(np.column_stack([wins, sizes - wins]), *HALF_EACH, "ratio")
    low, high = resampling.interval(totals[:, 0] / totals.sum(axis=1), wins.sum() / sizes.sum())
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.008)


@pytest.mark.parametrize(("n", "least"), [(12, 0.84), (25, 0.86), (120, 0.9)])
def test_the_interval_covers_the_truth(n: int, least: float) -> None:
    resampling = Bootstrap(confidence=0.95, replicates=4000, seed=2)
    low, high = np.array([share_interval(n - wins, wins, resampling, str(wins)) for wins in range(n + 1)]).T
    truths = np.linspace(0.05, 0.95, 91)
    chances = binom.pmf(np.arange(n + 1), n, truths[:, None])
    coverage = (chances * ((low <= truths[:, None]) & (truths[:, None] <= high))).sum(axis=1)
    assert 0.94 <= coverage.mean() <= 0.965 and coverage.min() >= least


@pytest.mark.parametrize("wins", [1, 5, 50])
def test_winning_every_time_has_an_interval(wins: int) -> None:
    resampling = Bootstrap(confidence=0.95, replicates=4000, seed=0)
    low, high = share_interval(0, wins, resampling)
    assert high == 1.0 and low == pytest.approx(beta(wins + 0.5, 0.5).ppf(0.025), abs=0.03)
    assert share_interval(wins, 0, resampling) == (0.0, pytest.approx(1 - low, abs=0.03))


def test_the_order_of_situations_and_the_size_of_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    resampling = Bootstrap(confidence=0.95, replicates=500, seed=0)
    observed = np.random.default_rng(0).integers(0, 3, size=(40, 2))
    totals = resampling.totals(observed, *HALF_EACH, "one")
    assert np.array_equal(totals, resampling.totals(observed[::-1], *HALF_EACH, "one"))
    monkeypatch.setattr("sage_dialog.evaluation.bootstrap.CHUNK", 100)
    assert np.array_equal(totals, resampling.totals(observed, *HALF_EACH, "one"))
    assert not np.array_equal(totals, resampling.totals(observed, *HALF_EACH, "another"))
    another = Bootstrap(confidence=0.95, replicates=500, seed=1)
    assert not np.array_equal(totals, another.totals(observed, *HALF_EACH, "one"))
