"""How well policies reach the goals of tasks, and how well a critic predicts returns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.offline_rl.dialogues import VALID
from sage_dialog.schemas import GOAL_COMPARISONS, GOAL_SCORES, VALUE_CALIBRATION

ALL = "all"
"""The name of all tasks together."""

HELD_OUT = "held out"

BINS = 5
"""Groups of equal size in the figure."""


def goal_scores(rollouts: DataFrame, confidence: float, replicates: int, seed: int) -> DataFrame:
    """Return success, reward and length of each policy's dialogues, by task and of all (schemas.GOAL_SCORES).

    Success has Wilson's interval, means have that of a bootstrap over dialogues.
    """
    rows = []
    for task, policy, played in _groups(rollouts):
        success = played["success"].to_numpy(bool)
        low, high = proportion_confint(success.sum(), len(success), 1 - confidence, "wilson")
        common = {"task": task, "policy": policy}
        rows.append(
            common | {"statistic": "success", "n": len(success), "value": success.mean(), "low": low, "high": high}
        )
        replies = played["replies"].to_numpy(float)
        for statistic, values in (
            ("reward", played["reward"].to_numpy(float)),
            ("messages to success", replies[success]),
            ("messages", replies),
            ("unclear messages", played["unclear"].to_numpy(float)),
        ):
            if len(values):
                low, high = _mean_interval(values, confidence, replicates, seed, task, policy, statistic)
                rows.append(
                    common
                    | {"statistic": statistic, "n": len(values), "value": values.mean(), "low": low, "high": high}
                )
    return from_rows(rows, GOAL_SCORES)


def goal_comparisons(rollouts: DataFrame, reference: str) -> DataFrame:
    """Return exact sign tests of each policy's successes against the reference's (schemas.GOAL_COMPARISONS).

    All policies play the same situations, so tests are of pairs. Holm's adjustment is for all policies of a task.
    """
    rows: list[dict[str, Any]] = []
    tasks = [ALL, *dict.fromkeys(rollouts["task"])]
    for task in tasks:
        played = rollouts if task == ALL else rollouts[rollouts["task"] == task]
        success = played.pivot(index="situation_id", columns="policy", values="success")
        of_task = []
        for policy in [name for name in dict.fromkeys(rollouts["policy"]) if name != reference]:
            pair = success[[policy, reference]].dropna().to_numpy(bool)
            wins_a, wins_b = int((pair[:, 0] & ~pair[:, 1]).sum()), int((pair[:, 1] & ~pair[:, 0]).sum())
            p = binomtest(wins_a, wins_a + wins_b).pvalue if wins_a + wins_b else 1.0
            common = {"task": task, "policy_a": policy, "policy_b": reference, "n": len(pair)}
            of_task.append(common | {"wins_a": wins_a, "wins_b": wins_b, "p": p})
        if of_task:
            adjusted = multipletests([row["p"] for row in of_task], method="holm")[1]
            rows += [row | {"p_holm": p} for row, p in zip(of_task, adjusted, strict=True)]
    return from_rows(rows, GOAL_COMPARISONS)


def value_calibration(
    advantages: DataFrame, rollouts: DataFrame, confidence: float, replicates: int, seed: int
) -> DataFrame:
    """Return the regression of realised returns on predicted ones (schemas.VALUE_CALIBRATION).

    On held-out dialogues, Q of every reply; of policies that play with the critic, Q of the first action. A slope of 1
    and an intercept of 0 are those of a calibrated critic. Intervals are of a bootstrap over dialogues.
    """
    held_out = advantages[advantages["split"] == VALID]
    sources = [(HELD_OUT, held_out, "action_value", "realised", "dialogue_id")]
    read = rollouts[rollouts["action_value"].notna()]
    for policy in dict.fromkeys(read["policy"]):
        sources.append((policy, read[read["policy"] == policy], "action_value", "reward", "situation_id"))
    rows = []
    for source, table, predicted, realised, dialogue in sources:
        for task in [ALL, *dict.fromkeys(table["task"])]:
            part = table if task == ALL else table[table["task"] == task]
            x, y = part[predicted].to_numpy(float), part[realised].to_numpy(float)
            groups = np.unique(part[dialogue].to_numpy(str), return_inverse=True)[1]
            rows.append(
                {"source": source, "task": task, "n": len(x)} | _regression(x, y, groups, confidence, replicates, seed)
            )
    return from_rows(rows, VALUE_CALIBRATION)


def calibration_figure(advantages: DataFrame, calibration: DataFrame) -> Figure:
    """Return predicted against realised returns on held-out dialogues, in groups of equal size. One panel a task."""
    held_out = advantages[advantages["split"] == VALID]
    tasks = list(dict.fromkeys(held_out["task"])) or [ALL]
    figure = Figure(figsize=(3.4 * len(tasks) + 0.6, 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    slopes = {row["task"]: row for row in to_rows(calibration[calibration["source"] == HELD_OUT])}
    for axes, task in zip(panels, tasks, strict=True):
        part = held_out[held_out["task"] == task].sort_values(["action_value", "dialogue_id", "reply"])
        x, y = part["action_value"].to_numpy(float), part["realised"].to_numpy(float)
        ends = np.linspace(0, len(x), min(BINS, len(x)) + 1).astype(int)
        groups = [(x[a:b].mean(), y[a:b].mean(), y[a:b].std() / np.sqrt(b - a)) for a, b in pairwise(ends)]
        if groups:
            means, realised, errors = zip(*groups, strict=True)
            axes.errorbar(means, realised, yerr=errors, fmt="o", color="#2f6f8f", capsize=3)
            low, high = min(*means, *realised), max(*means, *realised)
            axes.plot([low, high], [low, high], color="#8a94a0", linestyle=":", linewidth=1)
        slope = slopes.get(task, {}).get("slope")
        axes.set_title(
            task + ("" if slope is None else f": slope {slope:.2f}, n = {len(x)}"), fontsize=9, parse_math=False
        )
        axes.set_xlabel("predicted return (Q)")
    panels[0].set_ylabel("realised return (mean, standard error)")
    return figure


def _groups(rollouts: DataFrame) -> list[tuple[str, str, DataFrame]]:
    found = []
    for task in [ALL, *dict.fromkeys(rollouts["task"])]:
        part = rollouts if task == ALL else rollouts[rollouts["task"] == task]
        found += [(task, policy, part[part["policy"] == policy]) for policy in dict.fromkeys(part["policy"])]
    return found


def _mean_interval(
    values: np.ndarray, confidence: float, replicates: int, seed: int, *item: str
) -> tuple[float, float]:
    rng = generator(seed, "goal bootstrap", *item)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(replicates)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _regression(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, confidence: float, replicates: int, seed: int
) -> dict[str, float | None]:
    means: dict[str, float | None] = {
        "mean_predicted": float(x.mean()) if len(x) else 0.0,
        "mean_realised": float(y.mean()) if len(y) else 0.0,
    }
    if len(x) < 3 or not x.std() or not y.std():
        return means | dict.fromkeys(("intercept", "slope", "slope_low", "slope_high", "correlation"))
    slope = _slope(x, y, np.ones(len(x)))
    rng = generator(seed, "calibration bootstrap")
    drawn = [_slope(x, y, rng.standard_exponential(groups.max() + 1)[groups]) for _ in range(replicates)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return means | {
        "intercept": float(y.mean() - slope * x.mean()),
        "slope": slope,
        "slope_low": float(low),
        "slope_high": float(high),
        "correlation": float(np.corrcoef(x, y)[0, 1]),
    }


def _slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Return the slope of the weighted regression of y on x."""
    centred = x - np.average(x, weights=weights)
    return float((weights * centred * (y - np.average(y, weights=weights))).sum() / (weights * centred**2).sum())


def concat(tables: Sequence[DataFrame]) -> DataFrame:
    """Return tables one below the other."""
    import pandas as pd

    return pd.concat(tables, ignore_index=True)
