"""The ranking against closed forms, statsmodels, and simulations with a known order."""

from itertools import combinations

import numpy as np
import pytest
import statsmodels.api as sm
from judging_tables import Row, letter_votes, table_rows, votes_table

from sage_dialog import schemas
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.judging.ranking import bradley_terry, ranking


def votes(*results: tuple[str, str, str], judge: str = "j", start: int = 0) -> list[Row]:
    """Return votes from one letter per situation for each pair, such as ("old", "new", "bbta")."""
    return [vote for a, b, letters in results for vote in letter_votes(judge, letters, (a, b), start)]


def ranking_rows(rows: list[Row], bootstrap: Bootstrap) -> list[Row]:
    return table_rows(ranking(votes_table(rows), bootstrap), schemas.RANKING)


def scores(rows: list[Row]) -> dict[str, float]:
    return {row["policy"]: row["score"] for row in rows}


def test_two_policies_by_hand(bootstrap: Bootstrap) -> None:
    # With half a win and half a loss of each against score 0, scores are ± s where
    # 7 - 10 p(2 s) = p(s) - 1/2, p being the logistic; a tie is half a win.
    rows = ranking_rows(votes(("old", "new", "bbbbbbtttatta"[:10])), bootstrap)
    assert [row["policy"] for row in rows] == ["new", "old"] and [row["rank"] for row in rows] == [1, 2]
    won = 6 + 3 / 2

    def logistic(x: float) -> float:
        return 1 / (1 + np.exp(-x))

    s = scores(rows)["new"]
    assert won - 10 * logistic(2 * s) == pytest.approx(logistic(s) - 0.5, abs=1e-6)
    assert sum(scores(rows).values()) == pytest.approx(0)


def test_scores_are_those_of_a_regression_by_statsmodels(bootstrap: Bootstrap) -> None:
    draw = np.random.default_rng(3)
    names = ["p", "q", "r", "s"]
    results = [(a, b, "".join(draw.choice(list("abt"), size=30))) for a, b in combinations(names, 2)]
    won_lost, terms = [], []
    for a, b, letters in results:
        ties = letters.count("t")
        won_lost.append((letters.count("b") + ties / 2, letters.count("a") + ties / 2))
        terms.append([(name == b) - (name == a) for name in names])
    won_lost += [(0.5, 0.5)] * 4
    fitted = sm.GLM(np.array(won_lost), np.array([*terms, *np.eye(4)]), family=sm.families.Binomial()).fit().params
    found = scores(ranking_rows(votes(*results), bootstrap))
    assert [found[name] for name in names] == pytest.approx(list(fitted - fitted.mean()), abs=1e-6)


def test_scores_and_intervals_of_a_published_example() -> None:
    # American League baseball 1987, 13 games a pair (Agresti, Categorical Data Analysis, table 10.10), the row's wins.
    # The abilities against Baltimore, and their standard errors, are those that R's BradleyTerry2 gives for it.
    wins = {
        "Milwaukee": (0, 7, 9, 7, 7, 9, 11),
        "Detroit": (6, 0, 7, 5, 11, 9, 9),
        "Toronto": (4, 6, 0, 7, 7, 8, 12),
        "New York": (6, 8, 6, 0, 6, 7, 10),
        "Boston": (6, 2, 6, 7, 0, 7, 12),
        "Cleveland": (4, 4, 5, 6, 6, 0, 6),
        "Baltimore": (2, 4, 1, 3, 1, 7, 0),
    }
    published = {
        "Milwaukee": (1.5814, 0.3433), "Detroit": (1.4364, 0.3396), "Toronto": (1.2945, 0.3367),
        "New York": (1.2476, 0.3359), "Boston": (1.1077, 0.3339), "Cleveland": (0.6839, 0.3319),
    }  # fmt: skip
    teams, pairs = list(wins), list(combinations(range(7), 2))
    columns = np.eye(2 * len(pairs) + 2 * 7)  # see bradley_terry
    games = np.array(
        [columns[place] for place, (a, b) in enumerate(pairs) for _ in range(wins[teams[a]][b])]
        + [columns[len(pairs) + place] for place, (a, b) in enumerate(pairs) for _ in range(wins[teams[b]][a])]
    )
    pseudo_counts, ends = columns[2 * len(pairs) :], np.array(pairs)
    assert len(games) == 13 * len(pairs)
    (found,) = bradley_terry(ends, (games.sum(axis=0) + 1e-6 * pseudo_counts.sum(axis=0))[None])
    resampling = Bootstrap(confidence=0.95, replicates=4000, seed=0)
    replicates = bradley_terry(ends, resampling.totals(games, pseudo_counts, 1e-3, "baseball"))
    for team, (ability, error) in published.items():
        place, last = teams.index(team), teams.index("Baltimore")
        assert found[place] - found[last] == pytest.approx(ability, abs=6e-4)
        low, high = resampling.interval(replicates[:, place] - replicates[:, last], ability)
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)


@pytest.mark.parametrize("n", [1, 20, 2000])
def test_winning_everything_has_a_finite_score_and_interval(n: int, bootstrap: Bootstrap) -> None:
    best, worst = ranking_rows(votes(("old", "new", "b" * n)), bootstrap)
    assert best["policy"] == "new" and 0 < best["score"] < 10
    assert best["low"] < best["score"] < best["high"] and best["high"] < 20
    assert worst["score"] == pytest.approx(-best["score"])


def test_all_ties_share_the_first_rank(bootstrap: Bootstrap) -> None:
    rows = ranking_rows(votes(("x", "y", "ttt"), ("y", "z", "ttt")), bootstrap)
    assert [(row["rank"], row["best_rank"], row["worst_rank"]) for row in rows] == [(1, 1, 3)] * 3
    assert [row["score"] for row in rows] == pytest.approx([0, 0, 0], abs=1e-9)


def test_a_chain_of_comparisons_ranks_policies_that_never_met(bootstrap: Bootstrap) -> None:
    better = "b" * 40 + "a" * 10
    rows = ranking_rows(votes(("one", "two", better), ("two", "three", better), ("three", "four", better)), bootstrap)
    assert [row["policy"] for row in rows] == ["four", "three", "two", "one"]
    assert [row["n"] for row in rows] == [50, 100, 100, 50]
    assert all(row["best_rank"] <= row["rank"] <= row["worst_rank"] for row in rows)
    assert rows[0]["worst_rank"] < rows[3]["best_rank"]


def test_policies_without_a_link_are_ranked_in_groups(bootstrap: Bootstrap) -> None:
    rows = ranking_rows(votes(("x", "y", "bbba"), ("u", "v", "aaaaab")), bootstrap)
    assert [(row["group"], row["rank"], row["policy"]) for row in rows] == [
        (1, 1, "y"),
        (1, 2, "x"),
        (2, 1, "u"),
        (2, 2, "v"),
    ]
    for group in (rows[:2], rows[2:]):
        assert sum(row["score"] for row in group) == pytest.approx(0)


def test_each_judge_has_its_own_ranking(bootstrap: Bootstrap) -> None:
    rows = ranking_rows(votes(("x", "y", "bbb")) + votes(("x", "y", "aaa"), judge="k"), bootstrap)
    assert [(row["judge"], row["policy"], row["rank"]) for row in rows] == [
        ("j", "y", 1),
        ("j", "x", 2),
        ("k", "x", 1),
        ("k", "y", 2),
    ]


def test_the_order_of_votes_makes_no_difference(bootstrap: Bootstrap) -> None:
    rows = votes(("x", "y", "bbtab"), ("y", "z", "abbbt"))
    assert ranking_rows(rows, bootstrap) == ranking_rows([*rows[:10][::-1], *rows[10:][::-1]], bootstrap)


@pytest.mark.slow
def test_intervals_cover_known_scores_if_pairs_of_a_situation_are_dependent() -> None:
    # Each situation shifts every comparison on it, so that answers on one depend on each other.
    draw = np.random.default_rng(7)
    truth = {"x": -0.5, "y": 0.0, "z": 0.5}
    pairs = list(combinations(truth, 2))
    resampling = Bootstrap(confidence=0.9, replicates=300, seed=0)
    covered = 0
    for _ in range(120):
        # One draw a situation decides all three pairs.
        draws = draw.logistic(size=100)
        results = [
            (a, b, "".join("b" if draws[s] < truth[b] - truth[a] else "a" for s in range(100))) for a, b in pairs
        ]
        rows = {row["policy"]: row for row in ranking_rows(votes(*results), resampling)}
        covered += sum(rows[name]["low"] <= score <= rows[name]["high"] for name, score in truth.items())
    assert 0.84 <= covered / 360 <= 0.96
