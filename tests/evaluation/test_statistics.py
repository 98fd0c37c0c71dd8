"""Statistics against published numbers, hand-worked cases and independent computations."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from sage_dialog.evaluation.statistics import clustered_mean, clustered_share, holm, proportion_interval, sign_test

# Wins of A and B in the paper's Table 1, and what the exact test gives on them.
TABLE_1 = [
    (688, 964, 1.2e-11),
    (823, 869, 0.27),
    (690, 859, 1.9e-5),
    (542, 1103, 3e-44),
    (617, 822, 7e-8),
    (684, 817, 6.5e-4),
    (619, 839, 9e-9),
    (473, 887, 1.5e-29),
]


@pytest.mark.parametrize(("wins_a", "wins_b", "p"), TABLE_1)
def test_sign_test_on_the_papers_table(wins_a: int, wins_b: int, p: float) -> None:
    assert sign_test(wins_a, wins_b) == pytest.approx(p, rel=0.06)


@pytest.mark.parametrize(("wins_a", "wins_b"), [(811, 822), (768, 835), (720, 748), (753, 728)])
def test_the_papers_later_iterations_do_not_differ(wins_a: int, wins_b: int) -> None:
    assert sign_test(wins_a, wins_b) > 0.05


def test_sign_test_by_hand() -> None:
    # Five heads or five tails of five: 2 / 2^5.
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 9) == sign_test(9, 3)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.9 times 4, 3, 2, 1, never falling: 0.04, 0.06, 0.06, 0.9.
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 10), (120, 200)])
def test_proportion_interval_is_wilsons(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(0.9, method="wilson")
    assert proportion_interval(successes, n, 0.9) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_proportion_interval_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        proportion_interval(successes, n, 0.95)


def test_clusters_that_agree_within_count_little() -> None:
    # Ten dialogues of eight replies, all alike within a dialogue: 5 of 10, not 40 of 80. The linearised variance
    # has 9 in place of 10 below the line, so the effective sample is 9.
    share = clustered_share([8, 0] * 5, [8] * 10, 0.95)
    assert (share.value, share.n) == (0.5, 80)
    assert (share.low, share.high) == pytest.approx(proportion_interval(4.5, 9, 0.95))


def test_clusters_that_agree_between_count_no_more_than_their_size() -> None:
    share = clustered_share([4] * 10, [8] * 10, 0.95)
    assert (share.low, share.high) == pytest.approx(proportion_interval(40, 80, 0.95))


@pytest.mark.parametrize("successes", [0, 8])
def test_a_share_without_variance_counts_clusters(successes: int) -> None:
    share = clustered_share([successes] * 10, [8] * 10, 0.95)
    assert (share.low, share.high) == pytest.approx(proportion_interval(10 * successes / 8, 10, 0.95))
    assert share.high - share.low > 0.2


def test_clustered_share_covers_the_truth_as_often_as_it_says() -> None:
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


def test_clustered_mean_pools_by_size_and_leaves_out_the_empty() -> None:
    mean = clustered_mean([30.0, 0.0, 10.0], [3, 0, 2], 0.95)
    assert (mean.value, mean.n) == (8.0, 5)


def test_one_cluster_bounds_no_mean() -> None:
    mean = clustered_mean([30.0], [3], 0.95)
    assert (mean.value, mean.low, mean.high) == (10.0, -math.inf, math.inf)


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(ValueError, match="no observation"):
        clustered_share([0, 0], [0, 0], 0.95)
