"""Power against enumeration of all outcomes of a small study, and against simulated large studies."""

from math import comb

import numpy as np
import pytest
from judging_tables import Row, table_rows

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows
from sage_dialog.evaluation.judging.power import sample_sizes, sign_test_power, situations_needed
from sage_dialog.evaluation.report.findings import situations_for_all_pairs
from sage_dialog.evaluation.statistics import sign_test


def enumerated_power(situations: int, share: float, decided: float, level: float) -> float:
    """Return the power summed over all numbers of wins of a and of b."""
    total = 0.0
    for wins_a in range(situations + 1):
        for wins_b in range(situations + 1 - wins_a):
            ties = situations - wins_a - wins_b
            if sign_test(wins_a, wins_b) <= level:
                ways = comb(situations, ties) * comb(wins_a + wins_b, wins_b)
                chance = (1 - decided) ** ties * (decided * share) ** wins_b * (decided * (1 - share)) ** wins_a
                total += ways * chance
    return total


@pytest.mark.parametrize(
    ("situations", "share", "decided", "level"),
    [
        (1, 0.9, 1.0, 0.05),
        (6, 0.9, 1.0, 0.05),
        (25, 0.7, 0.6, 0.05),
        (30, 0.8, 1.0, 0.01),
        (24, 0.5, 0.5, 0.05),
        (6, 0.9, 1.0, 2 / 2**6),
    ],
)
def test_power_equals_the_sum_over_all_outcomes(situations: int, share: float, decided: float, level: float) -> None:
    expected = enumerated_power(situations, share, decided, level)
    assert sign_test_power(situations, share, decided, level) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_power_is_the_rate_of_significant_simulated_studies() -> None:
    wins_a, _, wins_b = np.random.default_rng(1).multinomial(400, [0.27, 0.4, 0.33], size=3000).T
    significant = np.mean([sign_test(a, b) <= 0.05 for a, b in zip(wins_a.tolist(), wins_b.tolist(), strict=True)])
    assert sign_test_power(400, 0.55, 0.6, 0.05) == pytest.approx(significant, abs=0.025)


@pytest.mark.parametrize(("share", "decided"), [(0.7, 1.0), (0.65, 0.8), (0.95, 0.5), (0.35, 1.0)])
def test_the_power_stays_above_the_number_needed(share: float, decided: float) -> None:
    needed = situations_needed(share, decided, 0.05, 0.8)
    assert sign_test_power(needed - 1, share, decided, 0.05) < 0.8
    assert min(sign_test_power(n, share, decided, 0.05) for n in range(needed, 2 * needed + 20)) >= 0.8


def test_a_large_number_needed_is_near_the_normal_approximation() -> None:
    # (1.96 / 2 + 0.8416 sqrt(0.53 * 0.47))^2 / 0.03^2 = 2,178 decided, of which there are half.
    assert situations_needed(0.53, 0.5, 0.05, 0.8) == pytest.approx(2 * 2178, rel=0.02)


@pytest.mark.parametrize(("share", "decided"), [(0.5, 1.0), (0.7, 0.0)])
def test_a_difference_that_no_number_detects_is_refused(share: float, decided: float) -> None:
    with pytest.raises(ValueError, match="no number of situations shows"):
        situations_needed(share, decided, 0.05, 0.8)


def rates(judge: str, policy: str, n: int, wins_a: int, wins_b: int) -> Row:
    return {"judge": judge, "policy_a": policy, "policy_b": "last", "n": n, "wins_a": wins_a, "wins_b": wins_b}


def test_each_pair_has_sample_sizes_for_its_own_ties() -> None:
    found = [rates("j", "x", 100, 30, 50), rates("j", "y", 80, 20, 4), rates("k", "x", 100, 0, 0)]
    sizes = sample_sizes(from_rows(found, schemas.WIN_RATES), [0.6, 0.7], confidence=0.95, power=0.8)
    rows = table_rows(sizes, schemas.SAMPLE_SIZES)
    assert [(row["judge"], row["policy_a"], row["pairs"], row["level"], row["true_share"]) for row in rows[:8]] == [
        ("j", policy, pairs, pytest.approx(0.05 / pairs), share)
        for policy in "xy"
        for pairs in (1, 2)
        for share in (0.6, 0.7)
    ]
    for row in rows[:8]:
        decided, n = {"x": (0.8, 100), "y": (0.3, 80)}[row["policy_a"]]
        assert (row["decided"], row["n"]) == (pytest.approx(decided), n)
        assert row["power"] == pytest.approx(sign_test_power(n, row["true_share"], decided, row["level"]))
        assert row["needed"] == situations_needed(row["true_share"], decided, row["level"], 0.8)
    assert [(row["judge"], row["pairs"], row["power"], row["needed"]) for row in rows[8:]] == [("k", 1, 0.0, None)] * 2


def test_the_number_for_all_pairs_is_that_of_the_pair_with_most_ties() -> None:
    """Pooled, half of the situations are decided; the number for that would leave the second pair without power."""
    found = [rates("j", "x", 200, 90, 100), rates("j", "y", 200, 10, 10), rates("k", "x", 200, 0, 0)]
    sizes = sample_sizes(from_rows(found, schemas.WIN_RATES), [0.7], confidence=0.95, power=0.8)
    of_j, of_k = situations_for_all_pairs(sizes)
    assert of_j == {"judge": "j", "true_share": 0.7, "pairs": 2, "needed": situations_needed(0.7, 0.1, 0.025, 0.8)}
    assert sign_test_power(of_j["needed"], 0.7, 0.1, 0.025) >= 0.8
    assert sign_test_power(situations_needed(0.7, 210 / 400, 0.025, 0.8), 0.7, 0.1, 0.025) < 0.2
    assert of_k["needed"] is None
