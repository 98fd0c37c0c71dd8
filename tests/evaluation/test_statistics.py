"""Statistics against published numbers, hand-worked cases and independent computations."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp
from statsmodels.stats.multitest import multipletests

from sage_dialog.evaluation.statistics import (
    clustered_mean,
    clustered_share,
    counted_share,
    holm,
    proportion_interval,
    sign_test,
)


def test_sign_test_by_hand() -> None:
    # Five heads or five tails of five: 2 / 2^5.
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 9) == sign_test(9, 3)


@pytest.mark.parametrize(("wins_a", "wins_b"), [(1, 7), (40, 79), (44, 63), (500, 612), (1127, 1417)])
def test_sign_test_equals_exact_integer_arithmetic(wins_a: int, wins_b: int) -> None:
    decided, fewer = wins_a + wins_b, min(wins_a, wins_b)
    tail = sum(math.comb(decided, wins) for wins in range(fewer + 1))
    assert sign_test(wins_a, wins_b) == pytest.approx(float(Fraction(2 * tail, 2**decided)), rel=1e-9)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1, never falling: 0.04, 0.06, 0.06, 0.9.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
def test_holm_equals_statsmodels() -> None:
    draw = np.random.default_rng(5)
    for size in (1, 2, 7, 40):
        p_values = [*draw.random(size) ** 4, *[0.01] * (size % 3)]
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_error_rates_without_a_difference() -> None:
    # 2,000 runs of six pairs on 150 situations, a third of them ties, with equally good policies.
    draw = np.random.default_rng(6)
    wins_a, _, wins_b = np.moveaxis(draw.multinomial(150, [1 / 3, 1 / 3, 1 / 3], size=(2000, 6)), 2, 0)
    p_values = np.vectorize(cache(sign_test), otypes=[float])(wins_a, wins_b)
    found = binomtest(int((p_values[:, 0] <= 0.05).sum()), 2000)
    # An exact test errs at most at the level, and close to it.
    assert found.statistic > 0.02 and found.proportion_ci(0.99).low <= 0.05
    any_of_six = binomtest(sum(min(holm(row)) <= 0.05 for row in p_values.tolist()), 2000)
    assert any_of_six.proportion_ci(0.99).low <= 0.05
    unadjusted = binomtest(int((p_values.min(axis=1) <= 0.05).sum()), 2000)
    assert unadjusted.proportion_ci(0.99).low > 0.1  # without adjustment the rate is higher


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 10), (120, 200)])
def test_proportion_interval_is_wilsons(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(0.9, method="wilson")
    assert proportion_interval(successes, n, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_proportion_interval_refuses_invalid_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        proportion_interval(successes, n, 0.95)


def test_clusters_without_inner_variance_count_as_one_observation() -> None:
    # Ten dialogues of eight replies, all alike within a dialogue: 5 of 10, not 40 of 80. The linearised variance
    # has 9 in place of 10 below the line, so the effective sample is 9.
    share = clustered_share([8, 0] * 5, [8] * 10, 0.95)
    assert (share.value, share.n) == (0.5, 80)
    assert (share.low, share.high) == pytest.approx(proportion_interval(4.5, 9, 0.95))


def test_alike_clusters_count_at_most_their_size() -> None:
    share = clustered_share([4] * 10, [8] * 10, 0.95)
    assert (share.low, share.high) == pytest.approx(proportion_interval(40, 80, 0.95))


@pytest.mark.parametrize("successes", [0, 8])
def test_a_share_of_zero_or_one_counts_clusters(successes: int) -> None:
    share = clustered_share([successes] * 10, [8] * 10, 0.95)
    assert (share.low, share.high) == pytest.approx(proportion_interval(10 * successes / 8, 10, 0.95))
    assert share.high - share.low > 0.2


def test_clusters_can_be_counted() -> None:
    clusters = {(0, 4): 30, (1, 4): 11, (4, 4): 2, (0.3, 3): 3, (0, 0): 5}
    repeated = [cluster for cluster, number in clusters.items() for _ in range(number)]
    assert counted_share(clusters, 0.95) == clustered_share(*zip(*repeated, strict=True), 0.95)


def test_clustered_share_covers_the_truth() -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        sizes = draw.integers(1, 9, size=60)
        successes = draw.binomial(sizes, draw.beta(1.5, 3.5, size=60))  # the mean of Beta(1.5, 3.5) is 0.3
        share = clustered_share(successes.tolist(), sizes.tolist(), 0.9)
        covered += share.low <= 0.3 <= share.high
    assert 0.86 <= covered / 400 <= 0.94


def test_clustered_mean_of_single_observations_is_students() -> None:
    values = [12.0, 15.0, 11.0, 19.0, 14.0]
    mean = clustered_mean(values, [1] * 5, 0.95)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean.value, mean.n) == (pytest.approx(14.2), 5)
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high))


def test_clustered_mean_pools_by_size_and_ignores_empty_clusters() -> None:
    mean = clustered_mean([30.0, 0.0, 10.0], [3, 0, 2], 0.95)
    assert (mean.value, mean.n) == (8.0, 5)


def test_the_mean_of_one_cluster_is_unbounded() -> None:
    mean = clustered_mean([30.0], [3], 0.95)
    assert (mean.value, mean.low, mean.high) == (10.0, -math.inf, math.inf)


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no observation"):
        clustered_share([0, 0], [0, 0], 0.95)
