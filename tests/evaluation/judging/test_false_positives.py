"""Error rates of the tests and intervals, by simulation.

Each run is a judge that votes at random between equally good policies, so that one call computes 2,000 runs.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from judging_tables import Row, table_rows, votes_table, words_table
from scipy.stats import binom, binomtest

from sage_dialog import schemas
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.agreement import judge_agreement
from sage_dialog.evaluation.judging.judge_bias import judge_checks
from sage_dialog.evaluation.judging.length import length_control
from sage_dialog.evaluation.judging.votes import win_rates
from sage_dialog.evaluation.statistics import holm, sign_test

RUNS, SITUATIONS, TIES, LEVEL = 2000, 25, 0.3, 0.05
POLICIES = ("p", "q", "r")
PAIRS = tuple(combinations(POLICIES, 2))


def rows_of(runs: np.ndarray) -> Iterator[Row]:
    """Yield votes, equal in both orders, from an array of outcomes (run, situation, pair)."""
    for run, by_situation in enumerate(runs.tolist()):
        for situation, outcomes in enumerate(by_situation):
            for (policy_a, policy_b), vote in zip(PAIRS, outcomes, strict=True):
                common = {
                    "judge": f"run {run}",
                    "policy_a": policy_a,
                    "policy_b": policy_b,
                    "situation_id": f"s{situation}",
                }
                for order in ("ab", "ba"):
                    yield {**common, "order": order, "vote": vote}


def rates_of(runs: np.ndarray, confidence: float) -> list[Row]:
    return table_rows(win_rates(votes_table(rows_of(runs)), confidence), schemas.WIN_RATES)


@pytest.fixture(scope="module")
def rates() -> list[Row]:
    """WIN_RATES of runs in which each situation has its own favourite, so that its votes depend on each other."""
    draw = np.random.default_rng(20)
    preference = draw.standard_normal((RUNS, SITUATIONS, len(POLICIES)))
    b_preferred = np.stack(
        [preference[..., POLICIES.index(b)] > preference[..., POLICIES.index(a)] for a, b in PAIRS], axis=-1
    )
    ties = draw.random(b_preferred.shape) < TIES
    outcomes = np.where(ties, "tie", np.where(b_preferred, "b", "a"))
    return rates_of(outcomes, 0.95)


def exact_error_rate(level: float) -> float:
    """Return the error rate of the exact test, summed over the numbers of decided situations and of wins."""
    total = 0.0
    for decided in range(SITUATIONS + 1):
        wins = np.arange(decided + 1)
        significant = np.array([2 * binom.cdf(min(won, decided - won), decided, 0.5) <= level for won in wins])
        total += binom.pmf(decided, SITUATIONS, 1 - TIES) * float(binom.pmf(wins, decided, 0.5) @ significant)
    return total


@pytest.mark.slow
def test_the_sign_test_errs_as_often_as_computed(rates: list[Row]) -> None:
    for pair in PAIRS:
        found = sum(row["p_value"] <= LEVEL for row in rates if (row["policy_a"], row["policy_b"]) == pair)
        interval = binomtest(found, RUNS).proportion_ci(0.99)
        assert interval.low <= exact_error_rate(LEVEL) <= interval.high and interval.low <= LEVEL
    assert 0.02 < exact_error_rate(LEVEL) < LEVEL  # exact: below the level, because counts are discrete


def test_holm_keeps_the_error_rate_of_all_pairs_together(rates: list[Row]) -> None:
    runs = [rates[place : place + len(PAIRS)] for place in range(0, len(rates), len(PAIRS))]
    assert {len({row["judge"] for row in run}) for run in runs} == {1} and len(runs) == RUNS
    adjusted = sum(min(row["p_adjusted"] for row in run) <= LEVEL for run in runs)
    assert binomtest(adjusted, RUNS).proportion_ci(0.99).low <= LEVEL and adjusted > 0
    # Without adjustment, the smallest p of three pairs exceeds the level.
    unadjusted = sum(min(row["p_value"] for row in run) <= LEVEL for run in runs)
    assert binomtest(unadjusted, RUNS).proportion_ci(0.99).low > LEVEL


def test_holm_keeps_the_error_rate_if_some_differences_are_real() -> None:
    # Six pairs, two of which differ: no more than one run in twenty may call one of the other four different.
    draw = np.random.default_rng(21)
    wins = draw.binomial(120, [0.5, 0.5, 0.8, 0.5, 0.75, 0.5], size=(RUNS, 6))
    p_values = np.vectorize(cache(sign_test), otypes=[float])(wins, 120 - wins)
    adjusted = np.array([holm(row) for row in p_values.tolist()])
    wrong = binomtest(int((adjusted[:, [0, 1, 3, 5]].min(axis=1) <= LEVEL).sum()), RUNS)
    assert wrong.proportion_ci(0.99).low <= LEVEL and wrong.statistic > 0.015
    assert (adjusted[:, [2, 4]] <= LEVEL).mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("true_share", [0.5, 0.7, 0.9])
def test_the_win_rate_s_interval_covers_the_truth(true_share: float) -> None:
    draw = np.random.default_rng(22)
    decided, wins = draw.random((RUNS, 40, 3)) > TIES, draw.random((RUNS, 40, 3)) < true_share
    outcomes = np.where(decided, np.where(wins, "b", "a"), "tie")[:700]  # three pairs each
    rows = rates_of(outcomes, 0.9)
    covered = sum(row["low"] <= true_share <= row["high"] for row in rows)
    assert 0.87 < covered / len(rows) < 0.93


@pytest.mark.slow
def test_biases_are_not_found_in_random_votes() -> None:
    draw = np.random.default_rng(23)
    votes = [
        {"judge": f"run {run}", "policy_a": "p", "policy_b": "q", "situation_id": f"s{situation}", "order": order}
        | {"vote": str(vote)}
        for run, of_run in enumerate(draw.choice(["a", "b"], size=(RUNS, 40, 2)))
        for situation, answers in enumerate(of_run)
        for order, vote in zip(("ab", "ba"), answers, strict=True)
    ]
    rows = table_rows(judge_checks(votes_table(votes), 0.95), schemas.JUDGE_CHECKS)
    for statistic, truth in (("names_first", 0.5), ("order_flips", 0.5)):
        judged = [row for row in rows if row["statistic"] == statistic]
        missed = sum(not row["low"] <= truth <= row["high"] for row in judged)
        assert len(judged) == RUNS and 0.02 < missed / RUNS < 0.07


@pytest.mark.slow
def test_an_effect_of_length_is_not_found_in_random_votes() -> None:
    draw = np.random.default_rng(24)
    outcomes = draw.choice(["a", "b"], size=(150, 60, 3))
    words = {
        policy: {f"s{place}": int(count) for place, count in enumerate(draw.integers(20, 90, 60))}
        for policy in POLICIES
    }
    control = length_control(votes_table(rows_of(outcomes)), words_table(words), 0.95)
    rows = table_rows(control, schemas.LENGTH_CONTROL)
    for even, low, high in ((0.5, "low", "high"), (1, "odds_low", "odds_high")):
        missed = binomtest(sum(not row[low] <= even <= row[high] for row in rows), len(rows))
        assert missed.proportion_ci(0.99).low <= LEVEL and missed.statistic > 0.02


@pytest.mark.slow
def test_independent_judges_have_no_kappa() -> None:
    draw = np.random.default_rng(25)
    bootstrap = Bootstrap(confidence=0.95, replicates=300, seed=0)
    missed = 0
    for _ in range(300):
        two = draw.choice(["a", "b", "tie"], p=[0.3, 0.5, 0.2], size=(2, 60, 3))
        agreement = judge_agreement(votes_table(rows_of(two)), bootstrap).iloc[0]
        missed += not agreement["kappa_low"] <= 0 <= agreement["kappa_high"]
    assert 0.02 < missed / 300 < 0.09
