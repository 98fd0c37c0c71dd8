"""Effects of length and skill: known effects are found, and effects that cannot be separated are not claimed."""

from collections.abc import Callable

import numpy as np
import pytest
from judging_tables import Row, table_rows, votes_table, words_table
from scipy.optimize import minimize

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame
from sage_dialog.evaluation.judging.length import count_words, length_control

Words = dict[str, dict[str, int]]


def votes(outcomes: list[str], judge: str = "j", prefix: str = "s") -> list[Row]:
    """Return votes on the situations `prefix` + number, equal in both orders."""
    pair = {"judge": judge, "policy_a": "old", "policy_b": "new"}
    return [
        {**pair, "situation_id": f"{prefix}{place}", "order": order, "vote": vote}
        for place, vote in enumerate(outcomes)
        for order in ("ab", "ba")
    ]


def words_of(old: list[int], new: list[int], prefix: str = "s") -> Words:
    return {
        policy: {f"{prefix}{place}": count for place, count in enumerate(counts)}
        for policy, counts in (("old", old), ("new", new))
    }


def simulate(
    draw: np.random.Generator, n: int, skill: float, slope: float, longer: float, prefix: str = "s"
) -> tuple[list[str], Words]:
    """Simulate judged dialogues; on average b has 2**`longer` times the words of a."""
    doublings = draw.normal(longer, 0.5, size=n)
    old = draw.integers(60, 120, size=n)
    new = np.maximum(1, (old * 2**doublings).astype(int))
    log_ratio = np.log2((new + 1) / (old + 1))
    wins = draw.random(n) < 1 / (1 + np.exp(-(skill + slope * log_ratio)))
    return ["b" if won else "a" for won in wins], words_of(old.tolist(), new.tolist(), prefix)


def test_words_of_blocks_and_users_are_not_counted(rollouts_of: Callable[..., DataFrame]) -> None:
    block = "{u_motivation: x, u_emotion: y, u_topic: []} {a_motivation: x, a_emotion: y, a_topic: []} "
    words = count_words(rollouts_of(new={"s1": [block + "one two three", "four"], "s2": []}))
    assert words.to_dict("records") == [
        {"policy": "new", "situation_id": "s1", "words": 4},
        {"policy": "new", "situation_id": "s2", "words": 0},
    ]


def control(votes: list[Row], words: Words, confidence: float) -> list[Row]:
    table = length_control(votes_table(votes), words_table(words), confidence)
    return table_rows(table, schemas.LENGTH_CONTROL)


def test_a_policy_that_wins_by_length_alone_wins_nothing_at_equal_length() -> None:
    outcomes, words = simulate(np.random.default_rng(1), 1500, skill=0.0, slope=3.0, longer=0.6)
    (row,) = control(votes(outcomes), words, 0.95)
    assert row["win_rate_b"] > 0.75 and row["b_says_more"] > 0.8
    assert row["low"] < 0.5 < row["high"] and row["high"] - row["low"] < 0.2
    assert row["odds_low"] < np.exp(3.0) < row["odds_high"]


def test_skill_shows_at_equal_length_with_fewer_words() -> None:
    outcomes, words = simulate(np.random.default_rng(2), 1500, skill=1.0, slope=2.0, longer=-0.5)
    (row,) = control(votes(outcomes), words, 0.95)
    assert row["win_rate_b"] < 0.6 and row["low"] < 1 / (1 + np.exp(-1.0)) < row["high"] and row["low"] > 0.6


@pytest.mark.slow
def test_the_interval_has_its_nominal_coverage() -> None:
    draw = np.random.default_rng(3)
    all_votes: list[Row] = []
    all_words: Words = {"old": {}, "new": {}}
    for run in range(300):  # each run is a judge with its own situations, so that one call computes all runs
        outcomes, words = simulate(draw, 80, skill=0.4, slope=1.0, longer=0.3, prefix=f"{run}/")
        all_votes += votes(outcomes, judge=f"run {run}", prefix=f"{run}/")
        all_words = {policy: counts | words[policy] for policy, counts in all_words.items()}
    rows = control(all_votes, all_words, 0.9)
    assert len(rows) == 300
    covered = sum(row["low"] <= 1 / (1 + np.exp(-0.4)) <= row["high"] for row in rows)
    assert 0.86 <= covered / 300 <= 0.95


def test_the_fit_is_the_most_likely_one_by_another_optimiser() -> None:
    outcomes, words = simulate(np.random.default_rng(4), 60, skill=0.5, slope=1.0, longer=0.2)
    (row,) = control(votes(outcomes), words, 0.95)
    ratio = np.log2([(words["new"][s] + 1) / (words["old"][s] + 1) for s in words["old"]])
    won = np.array([outcome == "b" for outcome in outcomes])

    def negative_log_likelihood(terms: np.ndarray) -> float:
        log_odds = terms[0] + terms[1] * ratio
        loss = np.logaddexp(0, np.where(won, -log_odds, log_odds)).sum()
        return loss + 0.5 * (np.logaddexp(0, terms[1]) + np.logaddexp(0, -terms[1]))  # half a win, half a loss

    skill, slope = minimize(negative_log_likelihood, np.zeros(2)).x
    assert row["equal_length_rate_b"] == pytest.approx(1 / (1 + np.exp(-skill)), abs=1e-4)
    assert row["odds_by_doubling"] == pytest.approx(np.exp(slope), rel=1e-3)


def test_figures_are_finite_if_length_alone_decides() -> None:
    draw = np.random.default_rng(5)
    old, new = draw.integers(50, 100, size=(2, 200)).tolist()
    outcomes = ["b" if b > a else "a" if a > b else "tie" for a, b in zip(old, new, strict=True)]
    (row,) = control(votes(outcomes), words_of(old, new), 0.95)
    assert row["low"] < 0.5 < row["high"] and row["odds_low"] > 100 and np.isfinite(row["odds_high"])


def test_skill_is_open_if_one_policy_always_writes_twice_as_much() -> None:
    old = list(range(50, 90))
    (row,) = control(votes(["b"] * 38 + ["a"] * 2), words_of(old, [2 * n + 1 for n in old]), 0.95)
    assert row["win_rate_b"] == 0.95 and row["b_says_more"] == 1.0
    assert row["low"] < 0.25 and row["high"] > 0.95


def test_equal_lengths_do_not_change_the_win_rate() -> None:
    (row,) = control(votes(["b"] * 30 + ["a"] * 10 + ["tie"] * 5), words_of([70] * 45, [70] * 45), 0.95)
    assert (row["n"], row["b_says_more"], row["words_a"], row["words_b"]) == (40, 0.0, 70, 70)
    assert row["equal_length_rate_b"] == pytest.approx(30 / 40)


def test_a_policy_that_always_wins_has_a_finite_skill() -> None:
    (row,) = control(votes(["b"] * 20), words_of(list(range(50, 70)), [60] * 20), 0.95)
    ratios = np.log2(61 / np.arange(51, 71))
    at_mean = np.log(20.5 / 0.5)  # the slope is 1 by its prior alone, and its interval wide
    assert row["equal_length_rate_b"] == pytest.approx(1 / (1 + np.exp(-at_mean)))
    assert row["odds_by_doubling"] == pytest.approx(1) and row["odds_high"] / row["odds_low"] > 1000
    assert 0.5 < row["low"] < row["high"] < 1 and abs(ratios.mean()) < 0.1


def test_nothing_decided_has_lengths_and_no_rate() -> None:
    (row,) = control(votes(["tie", "tie"]), words_of([0, 4], [3, 5]), 0.95)
    assert (row["n"], row["words_a"], row["words_b"]) == (0, 2, 4)
    assert row["equal_length_rate_b"] is row["low"] is row["win_rate_b"] is None


def test_a_judged_situation_that_was_not_played_is_named() -> None:
    with pytest.raises(ValueError, match=r"'s1' of old against new \(judge j\) was judged, but the rollouts of new"):
        control(votes(["a", "b"]), words_of([1, 2], [1]), 0.95)
