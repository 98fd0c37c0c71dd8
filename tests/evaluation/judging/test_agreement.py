"""Agreement between judges against statsmodels and hand-worked tables."""

import numpy as np
import pytest
from judging_tables import Row, letter_votes, table_rows, votes_table
from statsmodels.stats.inter_rater import cohens_kappa

from sage_dialog import schemas
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.agreement import judge_agreement
from sage_dialog.evaluation.statistics import proportion_interval


def agreement(votes: list[Row], bootstrap: Bootstrap) -> list[Row]:
    """Return the rows of all pairs of policies together."""
    rows = table_rows(judge_agreement(votes_table(votes), bootstrap), schemas.JUDGE_AGREEMENT)
    return [row for row in rows if row["policy_a"] is None]


def test_a_table_by_hand(bootstrap: Bootstrap) -> None:
    # Same outcome on 6 of 10. By chance: 0.4 * 0.5 (a) + 0.4 * 0.3 (b) + 0.2 * 0.2 (tie) = 0.36.
    (row,) = agreement(letter_votes("j", "aaaabbbbtt") + letter_votes("k", "aaabbbatta"), bootstrap)
    assert (row["judge_a"], row["judge_b"], row["n"]) == ("j", "k", 10)
    assert row["agreement"] == 0.6
    assert row["kappa"] == pytest.approx((0.6 - 0.36) / (1 - 0.36))
    assert row["kappa_low"] < row["kappa"] < row["kappa_high"]
    # Both decide on the first seven; they name the same winner on five of these.
    assert (row["decided"], row["same_winner"]) == (7, pytest.approx(5 / 7))
    # Of the seven j names a in four and k names a in four: 4/7 * 4/7 + 3/7 * 3/7.
    assert row["same_by_lot"] == pytest.approx(25 / 49)


def test_agreement_by_lot_equals_that_of_shuffled_winners(bootstrap: Bootstrap) -> None:
    """Judges that know which policy is better but ignore the situations agree as often as random assignment."""
    draw = np.random.default_rng(8)
    pairs = {("bad", "good"): 0.97, ("good", "better"): 0.6}
    letters_of = {
        (pair, judge): draw.choice(list("abt"), size=400, p=[0.8 * (1 - share), 0.8 * share, 0.2])
        for pair, share in pairs.items()
        for judge in "jk"
    }
    rows = [
        vote for (pair, judge), letters in letters_of.items() for vote in letter_votes(judge, "".join(letters), pair)
    ]
    (row,) = agreement(rows, bootstrap)
    decided = {pair: (letters_of[pair, "j"] != "t") & (letters_of[pair, "k"] != "t") for pair in pairs}
    by_lot = [
        np.concatenate(
            [
                letters_of[pair, "j"][both] == draw.permutation(letters_of[pair, "k"][both])
                for pair, both in decided.items()
            ]
        )
        for _ in range(2000)
    ]
    assert row["same_by_lot"] == pytest.approx(np.mean(by_lot), abs=0.002)
    assert row["same_winner"] > 0.7 and row["same_low"] < row["same_by_lot"] < row["same_high"]


def test_kappa_and_its_interval_are_those_of_statsmodels_on_much_data(bootstrap: Bootstrap) -> None:
    draw = np.random.default_rng(1)
    first = draw.choice(list("abt"), size=800, p=[0.3, 0.5, 0.2])
    second = np.where(draw.random(800) < 0.5, first, draw.choice(list("abt"), size=800))
    (row,) = agreement(letter_votes("j", "".join(first)) + letter_votes("k", "".join(second)), bootstrap)
    table = [[int(((first == x) & (second == y)).sum()) for y in "abt"] for x in "abt"]
    expected = cohens_kappa(np.array(table))
    assert row["kappa"] == pytest.approx(expected.kappa)
    assert (row["kappa_low"], row["kappa_high"]) == pytest.approx((expected.kappa_low, expected.kappa_upp), abs=0.01)
    low, high = proportion_interval(800 * row["agreement"], 800, 0.95)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-3)


def test_pairs_on_the_same_situations_are_not_independent(bootstrap: Bootstrap) -> None:
    first, second = "ab" * 30, "abba" * 15
    one_pair = agreement(letter_votes("j", first) + letter_votes("k", second), bootstrap)[0]
    pairs = [("old", "new"), ("old", "newer"), ("new", "newer")]
    three = [
        vote
        for pair in pairs
        for judge, letters in (("j", first), ("k", second))
        for vote in letter_votes(judge, letters, pair)
    ]
    three_pairs = agreement(three, bootstrap)[0]
    assert three_pairs["n"] == 3 * one_pair["n"] and three_pairs["agreement"] == one_pair["agreement"] == 0.5
    assert three_pairs["high"] - three_pairs["low"] > 0.95 * (one_pair["high"] - one_pair["low"])
    assert three_pairs["kappa_high"] - three_pairs["kappa_low"] > 0.9 * (one_pair["kappa_high"] - one_pair["kappa_low"])


def test_full_agreement_has_an_interval(bootstrap: Bootstrap) -> None:
    (row,) = agreement(letter_votes("j", "aabbt") + letter_votes("k", "aabbt"), bootstrap)
    assert (row["agreement"], row["kappa"], row["same_winner"], row["high"], row["kappa_high"]) == (1, 1, 1, 1, 1)
    assert row["low"] < 0.7 and 0.2 < row["kappa_low"] < 0.5


def test_judges_with_one_constant_outcome_have_no_kappa(bootstrap: Bootstrap) -> None:
    (row,) = agreement(letter_votes("j", "ttt") + letter_votes("k", "ttt"), bootstrap)
    assert (row["agreement"], row["kappa"], row["kappa_low"]) == (1, None, None)
    assert (row["decided"], row["same_winner"], row["same_low"]) == (0, None, None)


def test_only_situations_that_both_judged_are_compared(bootstrap: Bootstrap) -> None:
    shared = agreement(letter_votes("j", "abab") + letter_votes("k", "ab"), bootstrap)
    assert [row["n"] for row in shared] == [2]
    assert agreement(letter_votes("j", "ab") + letter_votes("k", "ab", ("x", "y")), bootstrap) == []
    assert agreement(letter_votes("j", "ab"), bootstrap) == agreement([], bootstrap) == []
    three = agreement(letter_votes("j", "ab") + letter_votes("k", "ab") + letter_votes("l", "ba"), bootstrap)
    assert [(row["judge_a"], row["judge_b"]) for row in three] == [("j", "k"), ("j", "l"), ("k", "l")]
