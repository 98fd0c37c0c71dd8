"""Several people as judges: pooled rows, one family of tests, and Krippendorff's alpha."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from judging_tables import Row, letter_votes, table_rows, votes_table
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from sage_dialog import schemas
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.people import PEOPLE
from sage_dialog.evaluation.judging.power import sample_sizes
from sage_dialog.evaluation.judging.raters import rater_agreement
from sage_dialog.evaluation.judging.votes import win_rates

FEW = Bootstrap(confidence=0.95, replicates=300, seed=0)
PAIRS = (("wordy", "one"), ("one", "two"), ("two", "three"))


def ratings(rater: str, letters: str, pair: tuple[str, str] = ("old", "new")) -> list[Row]:
    """Return one vote for each situation, in alternate orders; a blank is no vote."""
    both = letter_votes(f"human:{rater}", letters.replace(" ", "t"), pair)
    return [both[2 * place + place % 2] for place, letter in enumerate(letters) if letter != " "]


def rates_of(votes: list[Row]) -> list[Row]:
    return table_rows(win_rates(votes_table(votes), 0.95), schemas.WIN_RATES)


def alphas(votes: list[Row], bootstrap: Bootstrap = FEW) -> list[Row]:
    return table_rows(rater_agreement(votes_table(votes), bootstrap), schemas.RATER_AGREEMENT)


def test_raters_are_pooled_by_majority_beside_their_own_rows() -> None:
    votes = [*ratings("ann", "abbt b"), *ratings("bob", "aab  b"), *ratings("cleo", "b b ta")]
    rows = {row["judge"]: row for row in rates_of([*votes, *letter_votes("model", "abab")])}
    assert list(rows) == ["human:ann", "human:bob", "human:cleo", "model", PEOPLE]
    pooled = rows[PEOPLE]
    # a 2:1, a 1:1 draw, b 3:0, one tie, one tie, b 2:1
    assert [pooled[name] for name in ("n", "wins_a", "ties", "wins_b")] == [6, 1, 3, 2]
    assert (pooled["both_say_tie"], pooled["inconsistent"], pooled["unreadable"]) == (3, 0, 0)
    assert [rows["human:ann"][name] for name in ("n", "wins_a", "ties", "wins_b")] == [5, 1, 1, 3]


def test_one_rater_is_not_pooled() -> None:
    assert [row["judge"] for row in rates_of(ratings("ann", "abba"))] == ["human:ann"]


def test_all_people_are_one_family_of_tests_and_models_one_each() -> None:
    votes = [vote for pair in PAIRS for vote in letter_votes("model", "b" * 9 + "a", pair)]
    votes += [vote for pair in PAIRS[:2] for vote in ratings("ann", "b" * 8, pair)]
    votes += [vote for pair in PAIRS[:2] for vote in ratings("bob", "b" * 7 + "a", pair)]
    rows = rates_of(votes)
    for people in (True, False):
        family = [row for row in rows if (row["judge"] != "model") == people]
        assert len(family) == (6 if people else 3)
        expected = multipletests([row["p_value"] for row in family], method="holm")[1]
        assert [row["p_adjusted"] for row in family] == pytest.approx(expected)
    sizes = table_rows(sample_sizes(win_rates(votes_table(votes), 0.95), [0.7], 0.95, 0.8), schemas.SAMPLE_SIZES)
    assert {row["judge"]: row["pairs"] for row in sizes} == {"model": 3, "human:ann": 6, "human:bob": 6, PEOPLE: 6}


def test_the_pooled_test_keeps_its_level_if_raters_read_the_same_situations() -> None:
    """Raters who follow the same random preference are no more evidence than one of them."""
    draw = np.random.default_rng(40)
    found = 0
    for _ in range(60):
        letters = "".join(draw.choice(list("ab"), size=20))
        votes = [vote for rater in ("ann", "bob", "cleo") for vote in ratings(rater, letters)]
        found += next(row for row in rates_of(votes) if row["judge"] == PEOPLE)["p_value"] <= 0.05
    assert binomtest(found, 60).proportion_ci(0.99).low <= 0.05


def test_alpha_is_that_of_krippendorffs_example() -> None:
    """Two observers, ten units, binary data: 0.095 (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability)."""
    votes = [*ratings("meg", "abaaaaaaba"), *ratings("owen", "bbbaabaaaa")]
    together, of_pair = alphas(votes)
    assert together["alpha"] == pytest.approx(0.095, abs=5e-4)
    assert (together["raters"], together["n"], together["votes"]) == (2, 10, 20)
    assert together["low"] < 0 < together["high"] and of_pair["alpha"] == pytest.approx(together["alpha"])


def test_alpha_is_one_less_the_ratio_of_enumerated_disagreements() -> None:
    """Missing votes, several raters and pairs of policies with other base rates; every pair of votes is compared."""
    draw = np.random.default_rng(41)
    shares = ((0.05, 0.9, 0.05, 0), (0.3, 0.3, 0.2, 0.2), (0.1, 0.2, 0.4, 0.3))
    letters = {
        (rater, pair): "".join(draw.choice(list("abt "), size=40, p=share))
        for pair, share in zip(PAIRS, shares, strict=True)
        for rater in ("ann", "bob", "cleo", "dan")
    }
    rows = alphas([vote for (rater, pair), of in letters.items() for vote in ratings(rater, of, pair)])
    observed, expected = [], []
    for pair in PAIRS:
        items = [
            "".join(of[place] for (_, p), of in letters.items() if p == pair).replace(" ", "") for place in range(40)
        ]
        items = [item for item in items if len(item) > 1]
        observed.append(sum(sum(x != y for x, y in permutations(item, 2)) / (len(item) - 1) for item in items))
        values = "".join(items)
        expected.append(sum(x != y for x, y in permutations(values, 2)) / (len(values) - 1))
    assert [row["alpha"] for row in rows[1:]] == pytest.approx(
        [1 - one / other for one, other in zip(observed, expected, strict=True)]
    )
    assert rows[0]["alpha"] == pytest.approx(1 - sum(observed) / sum(expected))


def test_raters_that_are_independent_within_pairs_have_no_alpha() -> None:
    draw = np.random.default_rng(42)
    found = 0
    for _ in range(60):
        votes = [
            vote
            for pair, share in zip(PAIRS, ((0.02, 0.97, 0.01), (0.3, 0.3, 0.4), (0.6, 0.1, 0.3)), strict=True)
            for rater in ("ann", "bob", "cleo")
            for vote in ratings(rater, "".join(draw.choice(list("abt"), size=60, p=share)), pair)
        ]
        row = alphas(votes)[0]
        found += row["low"] > 0 or row["high"] < 0
    assert binomtest(found, 60).proportion_ci(0.99).low <= 0.05


def test_alpha_takes_what_at_least_two_raters_read() -> None:
    assert alphas([]) == alphas(ratings("ann", "abab")) == alphas(ratings("ann", "ab  ") + ratings("bob", "  ab")) == []
    assert alphas(letter_votes("j", "abab") + letter_votes("k", "abab")) == []
    same = alphas(ratings("ann", "bbbb") + ratings("bob", "bbb "))[0]
    assert (same["n"], same["votes"], same["alpha"], same["low"]) == (3, 6, None, None)
