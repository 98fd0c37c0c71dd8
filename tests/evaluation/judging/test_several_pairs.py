"""Judges over several pairs of policies with different base rates: what differs between pairs is no finding on a judge.

A pooled figure would mistake the pairs for the judge (Simpson's paradox): judges that are independent within every pair
agree, and a judge that is blind to length seems to prefer the length of the worse policy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from judging_tables import Row, letter_votes, table_rows, votes_table, words_table
from scipy.stats import binomtest
from statsmodels.discrete.conditional_models import ConditionalLogit
from statsmodels.discrete.discrete_model import Logit
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.inter_rater import cohens_kappa

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.agreement import judge_agreement
from sage_dialog.evaluation.judging.judge_bias import judge_checks
from sage_dialog.evaluation.judging.length import length_control
from sage_dialog.evaluation.judging.votes import win_rates
from sage_dialog.evaluation.report.findings import findings_by_judge

RUNS, SITUATIONS = 60, 200
QUALITY = {"wordy": -3.0, "plain": -0.5, "one": 0.0, "two": 0.0, "three": 0.2, "last": 0.3}
WORDS = {"wordy": (120, 20), "plain": (86, 15), "one": (86, 15), "two": (87, 15), "three": (87, 15), "last": (89, 15)}
PAIRS = (("wordy", "one"), ("plain", "one"), ("one", "two"), ("two", "three"), ("three", "last"), ("wordy", "last"))
SHARES = (  # of a, b and tie in each pair
    (0.01, 0.98, 0.01), (0.2, 0.4, 0.4), (0.25, 0.25, 0.5), (0.2, 0.2, 0.6), (0.15, 0.25, 0.6), (0.01, 0.97, 0.02),
)  # fmt: skip
FEW = Bootstrap(confidence=0.95, replicates=300, seed=0)


def independent_votes(draw: np.random.Generator, judges: Sequence[str], situations: int = SITUATIONS) -> list[Row]:
    """Return votes of judges that only know how often each policy of a pair is better."""
    return [
        vote
        for judge in judges
        for pair, shares in zip(PAIRS, SHARES, strict=True)
        for vote in letter_votes(judge, "".join(draw.choice(list("abt"), size=situations, p=shares)), pair)
    ]


def lengths(draw: np.random.Generator) -> dict[str, dict[str, int]]:
    """Return words by policy and situation; the worst policy writes most."""
    return {
        policy: {f"s{place}": max(1, int(count)) for place, count in enumerate(draw.normal(mean, spread, SITUATIONS))}
        for policy, (mean, spread) in WORDS.items()
    }


def quality_votes(
    draw: np.random.Generator, judge: str, words: dict[str, dict[str, int]], per_doubling: float = 0.0
) -> list[Row]:
    """Return votes by quality, which is each dialogue's own, and by `per_doubling` times the doublings of its words.

    A dialogue has the same quality in all its pairs, so that the outcomes of a situation depend on each other.
    """
    worth = {
        policy: mean
        + draw.normal(0, 1, SITUATIONS)
        + per_doubling * np.log2([words[policy][f"s{place}"] + 1 for place in range(SITUATIONS)])
        for policy, mean in QUALITY.items()
    }
    votes: list[Row] = []
    for a, b in PAIRS:
        lead = worth[b] - worth[a] + draw.logistic(0, 1, SITUATIONS)
        votes += letter_votes(judge, "".join(np.select([lead < -0.7, lead > 0.7], ["a", "b"], "t")), (a, b))
    return votes


def sentences(votes: list[Row], words: dict[str, dict[str, int]], truths: Sequence[str] = ()) -> dict[str, list[str]]:
    table = votes_table(votes)
    none = from_rows([], schemas.SELF_PREFERENCE)
    tables = (length_control(table, words_table(words), 0.95), judge_agreement(table, FEW), none)
    found = findings_by_judge(judge_checks(table, 0.95), win_rates(table, 0.95), *tables, truths, 0.95)
    return {judge: [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts] for judge, texts in found.items()}


@pytest.mark.slow
def test_judges_that_are_independent_within_each_pair_have_no_kappa() -> None:
    draw = np.random.default_rng(30)
    pooled, found = [], []
    for _ in range(RUNS):
        votes = independent_votes(draw, ("j", "k"))
        rows = table_rows(judge_agreement(votes_table(votes), FEW), schemas.JUDGE_AGREEMENT)
        together, *by_pair = rows
        assert together["policy_a"] is None and [(row["policy_a"], row["policy_b"]) for row in by_pair] == list(PAIRS)
        found.append(together["kappa_low"] > 0 or together["kappa_high"] < 0)
        first, second = (np.array([vote["vote"] for vote in votes if vote["judge"] == judge]) for judge in "jk")
        table = [[int(((first == x) & (second == y)).sum()) for y in ("a", "b", "tie")] for x in ("a", "b", "tie")]
        pooled.append(cohens_kappa(np.array(table)).kappa)
    assert min(pooled) > 0.2  # a table of all pairs together would show agreement in each run
    assert binomtest(sum(found), RUNS).proportion_ci(0.99).low <= 0.05


def test_kappa_over_pairs_is_the_mean_of_their_kappas_weighted_by_what_chance_leaves_open() -> None:
    draw = np.random.default_rng(31)
    votes = independent_votes(draw, ("j",), 150)
    copied = [{**vote, "judge": "k"} for vote in votes]
    other = independent_votes(draw, ("k",), 150)
    mixed = [one if number % 4 < 2 else two for number, (one, two) in enumerate(zip(copied, other, strict=True))]
    together, *by_pair = table_rows(judge_agreement(votes_table(votes + mixed), FEW), schemas.JUDGE_AGREEMENT)
    kappas, left = [], []
    for row, (a, b) in zip(by_pair, PAIRS, strict=True):
        one, two = (
            np.array([vote["vote"] for vote in part if (vote["policy_a"], vote["policy_b"]) == (a, b)])
            for part in (votes, mixed)
        )
        cells = np.array([[((one == x) & (two == y)).sum() for y in ("a", "b", "tie")] for x in ("a", "b", "tie")])
        kappas.append(cohens_kappa(cells).kappa)
        left.append(1 - float(cells.sum(0) @ cells.sum(1)) / cells.sum() ** 2)
        assert row["kappa"] == pytest.approx(kappas[-1]) and row["n"] == 150
    assert together["kappa"] == pytest.approx(np.average(kappas, weights=left))
    assert together["kappa_low"] < together["kappa"] < together["kappa_high"] and together["kappa"] > 0.4


def test_a_pair_that_one_policy_always_wins_does_not_change_kappa() -> None:
    even = letter_votes("j", "aabbabab", PAIRS[1]) + letter_votes("k", "ababaabb", PAIRS[1])
    alone = table_rows(judge_agreement(votes_table(even), FEW), schemas.JUDGE_AGREEMENT)[0]
    sure = letter_votes("j", "b" * 90, PAIRS[0]) + letter_votes("k", "b" * 90, PAIRS[0])
    rows = table_rows(judge_agreement(votes_table(even + sure), FEW), schemas.JUDGE_AGREEMENT)
    assert rows[0]["n"] == 98 and rows[0]["kappa"] == pytest.approx(alone["kappa"])
    (constant,) = (row for row in rows if row["policy_a"] == PAIRS[0][0])
    assert constant["kappa"] is None
    assert (constant["agreement"], constant["same_winner"], constant["same_by_lot"]) == (1, 1, 1)


def test_a_judge_that_only_knows_the_better_policy_shows_nothing_more() -> None:
    draw = np.random.default_rng(32)
    votes = independent_votes(draw, ("j", "truth"))
    first, second, *_ = sentences(votes, lengths(draw), ["truth"])["j"]
    assert "better than a coin" in first  # which the easy pairs alone give
    assert "among winners, no evidence that it sees more than which policy is usually better" in first
    assert second.endswith("not shown to be more than chance.")


@pytest.mark.slow
def test_a_judge_that_is_blind_to_length_is_not_said_to_go_by_it() -> None:
    draw = np.random.default_rng(33)
    words = lengths(draw)
    votes = [vote for run in range(RUNS) for vote in quality_votes(draw, f"run {run}", words)]
    rows = table_rows(length_control(votes_table(votes), words_table(words), 0.95), schemas.LENGTH_CONTROL)
    moved = {row["judge"] for row in rows if not row["odds_low"] <= 1 <= row["odds_high"]}
    assert binomtest(len(moved), RUNS).proportion_ci(0.99).low <= 0.05
    # A pooled share would be far from one half in each run, by the wordy policy alone.
    counts = [[words[vote[side]][vote["situation_id"]] for side in ("policy_a", "policy_b")] for vote in votes]
    longer = np.array([of_b > of_a for of_a, of_b in counts])
    named = np.array([vote["vote"] for vote in votes])
    of_run = np.array([vote["judge"] for vote in votes])
    for run in range(RUNS):
        decided = (of_run == f"run {run}") & (named != "tie")
        assert ((named == "b") == longer)[decided].mean() < 0.4
    for judge, found in sentences(votes[: len(votes) // 10], words).items():
        assert judge in moved or not any("twice as much" in sentence for sentence in found)


def test_length_is_found_within_pairs_even_if_the_wordy_policy_loses() -> None:
    draw = np.random.default_rng(34)
    words = lengths(draw)
    votes = [vote for run in range(6) for vote in quality_votes(draw, f"run {run}", words, per_doubling=2.0)]
    rows = table_rows(length_control(votes_table(votes), words_table(words), 0.95), schemas.LENGTH_CONTROL)
    assert all(row["odds_low"] > 1 for row in rows)
    wordy = [row for row in rows if row["policy_a"] == "wordy"]
    assert all(row["longer_high"] < 0.5 for row in wordy)  # in these pairs the shorter dialogue wins nonetheless
    for found in sentences(votes, words).values():
        assert any("writing twice as much multiplies the odds" in sentence for sentence in found)


def test_the_slope_is_that_of_conditional_regression_and_of_mantel_and_haenszel() -> None:
    draw = np.random.default_rng(35)
    words = lengths(draw)
    votes = quality_votes(draw, "j", words, per_doubling=2.0)
    rows = table_rows(length_control(votes_table(votes), words_table(words), 0.95), schemas.LENGTH_CONTROL)
    assert len({(row["odds_by_doubling"], row["odds_low"], row["odds_high"]) for row in rows}) == 1
    decided = [vote for vote in votes if vote["order"] == "ab" and vote["vote"] != "tie"]
    doublings = np.array(
        [
            np.log2((words[v["policy_b"]][v["situation_id"]] + 1) / (words[v["policy_a"]][v["situation_id"]] + 1))
            for v in decided
        ]
    )
    won = np.array([vote["vote"] == "b" for vote in decided])
    groups = np.array([PAIRS.index((vote["policy_a"], vote["policy_b"])) for vote in decided])
    conditional = ConditionalLogit(won.astype(int), doublings[:, None], groups=groups).fit(disp=False)
    assert np.log(rows[0]["odds_by_doubling"]) == pytest.approx(conditional.params[0], abs=0.15)
    # Mantel and Haenszel's odds ratio of winning with the longer dialogue, by pair: the same direction.
    tables = [
        np.array([[(won & (doublings > 0) & of).sum(), (won & (doublings < 0) & of).sum()],
                  [(~won & (doublings > 0) & of).sum(), (~won & (doublings < 0) & of).sum()]])
        for of in (groups == group for group in range(len(PAIRS)))
    ]  # fmt: skip
    assert StratifiedTable(tables).oddsratio_pooled > 1.3
    unequal = [(doublings != 0) & (groups == group) for group in range(len(PAIRS))]
    expected = [(won == (doublings > 0))[of_pair].mean() for of_pair in unequal]
    assert [row["longer_wins"] for row in rows] == pytest.approx(expected)


def test_the_interval_is_that_of_statsmodels_with_situations_as_clusters() -> None:
    draw = np.random.default_rng(37)
    words = lengths(draw)
    votes = quality_votes(draw, "j", words, per_doubling=1.0)
    row = table_rows(length_control(votes_table(votes), words_table(words), 0.95), schemas.LENGTH_CONTROL)[0]
    decided = [vote for vote in votes if vote["order"] == "ab" and vote["vote"] != "tie"]
    skills = np.array([[float((v["policy_a"], v["policy_b"]) == pair) for pair in PAIRS] for v in decided])
    counts = np.array([[words[v[side]][v["situation_id"]] + 1 for side in ("policy_a", "policy_b")] for v in decided])
    terms = np.column_stack([skills, np.log2(counts[:, 1] / counts[:, 0])])
    won = np.array([float(vote["vote"] == "b") for vote in decided])
    clusters = {"cov_type": "cluster", "cov_kwds": {"groups": [int(vote["situation_id"][1:]) for vote in decided]}}
    errors = [Logit(won, terms).fit(disp=False, **options).bse[-1] for options in ({}, clusters)]
    half = np.log(row["odds_high"] / row["odds_low"]) / 2
    assert half == pytest.approx(1.96 * max(errors), rel=0.03)


def test_outcomes_of_a_situation_in_several_pairs_are_not_independent() -> None:
    """A pair that is judged three times under other names is no more evidence on length."""
    draw = np.random.default_rng(36)
    words = lengths(draw)
    letters = "".join(draw.choice(list("ab"), size=SITUATIONS))
    copies = [("one", "two"), ("one'", "two'"), ("one''", "two''")]
    for a, b in copies[1:]:
        words |= {a: words["one"], b: words["two"]}
    of_copies = [vote for pair in copies for vote in letter_votes("j", letters, pair)]
    (alone,) = table_rows(
        length_control(votes_table(letter_votes("j", letters, copies[0])), words_table(words), 0.95),
        schemas.LENGTH_CONTROL,
    )
    three = table_rows(length_control(votes_table(of_copies), words_table(words), 0.95), schemas.LENGTH_CONTROL)[0]
    widths = [np.log(row["odds_high"] / row["odds_low"]) for row in (alone, three)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_many_pairs_that_one_policy_always_wins_say_nothing_on_length() -> None:
    words = {"wordy": {f"s{place}": 160 + place for place in range(30)}}
    words |= {f"p{number}": {f"s{place}": 80 + (7 * place) % 30 for place in range(30)} for number in range(10)}
    votes = [vote for number in range(10) for vote in letter_votes("j", "b" * 30, ("wordy", f"p{number}"))]
    rows = table_rows(length_control(votes_table(votes), words_table(words), 0.95), schemas.LENGTH_CONTROL)
    assert all(row["odds_low"] < 0.5 and row["odds_high"] > 2 and row["longer_wins"] == 0 for row in rows)
    assert 0.8 < rows[0]["odds_by_doubling"] < 1.25
