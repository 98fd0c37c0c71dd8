"""Scores of policies and of the critic, against the same numbers computed otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.offline_rl.evaluation import (
    HELD_OUT,
    calibration_figure,
    goal_comparisons,
    goal_scores,
    value_calibration,
)
from sage_dialog.schemas import ADVANTAGES, GOAL_ROLLOUTS


def rollouts(successes: dict[str, dict[str, list[int]]], **columns: Any) -> DataFrame:
    """Return dialogues by policy and task, with a success or not for each situation."""
    rows = [
        {
            **{"policy": policy, "task": task, "situation_id": f"{task}/{number}", "messages": [], "hidden": []},
            **{"replies": 2 + won, "unclear": 0, "reward": float(won), "success": bool(won)},
            **columns,
        }
        for policy, tasks in successes.items()
        for task, outcomes in tasks.items()
        for number, won in enumerate(outcomes)
    ]
    return from_rows(rows, GOAL_ROLLOUTS)


PLAYED = {
    "goal_filtered": {"a": [0] * 10 + [1] * 10, "b": [1] * 20},
    "goal_awr": {"a": [1] * 9 + [0] + [1] * 10, "b": [1] * 19 + [0]},
    "goal_bc": {"a": [0] * 20, "b": [1] * 20},
}


def test_scores_by_task_and_of_all() -> None:
    scores = goal_scores(rollouts(PLAYED), 0.95, 200, 0).set_index(["task", "policy", "statistic"])
    row = scores.loc[("a", "goal_filtered", "success")]
    assert (row["n"], row["value"]) == (20, 0.5)
    assert (row["low"], row["high"]) == pytest.approx((0.2993, 0.7007), abs=1e-4)  # Wilson's, from the literature
    assert scores.loc[("all", "goal_awr", "success"), "value"] == 38 / 40
    assert scores.loc[("a", "goal_filtered", "messages to success"), "value"] == 3
    assert ("a", "goal_bc", "messages to success") not in scores.index  # no success to count messages to
    reward = scores.loc[("a", "goal_filtered", "reward")]
    assert reward["low"] < reward["value"] == 0.5 < reward["high"]


def test_comparisons_are_paired_exact_and_adjusted() -> None:
    table = goal_comparisons(rollouts(PLAYED), "goal_filtered").set_index(["task", "policy_a"])
    row = table.loc[("a", "goal_awr")]
    assert (row["wins_a"], row["wins_b"], row["n"]) == (9, 0, 20)
    assert row["p"] == pytest.approx(2 * 0.5**9)
    worse = table.loc[("a", "goal_bc")]
    assert (worse["wins_a"], worse["wins_b"]) == (0, 10) and worse["p"] == pytest.approx(2 * 0.5**10)
    assert worse["p_holm"] == pytest.approx(2 * worse["p"]) and row["p_holm"] == pytest.approx(row["p"])
    assert table.loc[("b", "goal_bc"), "p"] == 1.0
    assert table.loc[("all", "goal_awr"), ["wins_a", "wins_b"]].tolist() == [9, 1]


def advantages(predicted: np.ndarray, realised: np.ndarray, split: str = "valid") -> DataFrame:
    rows = [
        {
            **{"dialogue_id": f"d{number // 2}", "task": "a", "split": split, "reply": 1 + number % 2, "replies": 2},
            **{"value": 0.0, "action_value": x, "advantage": 0.0, "realised": y},
        }
        for number, (x, y) in enumerate(zip(predicted.tolist(), realised.tolist(), strict=True))
    ]
    return from_rows(rows, ADVANTAGES)


def test_a_calibrated_critic_has_slope_one_and_a_bold_one_less() -> None:
    rng = np.random.default_rng(0)
    chance = rng.random(4000)
    won = (rng.random(4000) < chance).astype(float)
    none = rollouts({})
    for predicted, slope in ((chance, 1.0), (2 * chance - 0.5, 0.5)):
        table = value_calibration(advantages(predicted, won), none, 0.95, 200, 0).set_index(["source", "task"])
        row = table.loc[(HELD_OUT, "a")]
        assert row["slope"] == pytest.approx(slope, abs=0.06) and row["slope_low"] < row["slope"] < row["slope_high"]
        assert row["slope"] == pytest.approx(np.polyfit(predicted, won, 1)[0])


def test_training_dialogues_do_not_count_and_a_constant_has_no_slope() -> None:
    train = advantages(np.array([0.0, 1.0, 0.5]), np.array([1.0, 0.0, 0.0]), "train")
    held_out = advantages(np.array([0.3, 0.3, 0.3]), np.array([1.0, 0.0, 0.0]))
    row = value_calibration(pd.concat([train, held_out]), rollouts({}), 0.95, 50, 0).iloc[0]
    assert row["n"] == 3 and pd.isna(row["slope"]) and row["mean_predicted"] == pytest.approx(0.3)


def test_a_policy_that_plays_with_the_critic_is_calibrated_too() -> None:
    played = rollouts({"goal_rerank": {"a": [1, 0] * 10}}, action_value=0.25, value=0.1)
    table = value_calibration(advantages(np.zeros(4), np.zeros(4)), played, 0.95, 50, 0)
    row = table[table["source"] == "goal_rerank"].iloc[0]
    assert (row["n"], row["mean_predicted"], row["mean_realised"]) == (20, 0.25, 0.5)


def test_the_figure_has_a_panel_for_each_task() -> None:
    data = advantages(np.linspace(0, 1, 40), np.linspace(0, 1, 40))
    other = data.assign(task="b")
    both = pd.concat([data, other])
    figure = calibration_figure(both, value_calibration(both, rollouts({}), 0.95, 20, 0))
    assert [axes.get_title() for axes in figure.axes] == ["a: slope 1.00, n = 40", "b: slope 1.00, n = 40"]
