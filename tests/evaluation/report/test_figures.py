"""Figures are drawn from equal tables as equal images."""

from typing import Any

from matplotlib.figure import Figure

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.replies.replies import action_distribution
from sage_dialog.evaluation.report.figures import (
    action_figure,
    confusion_figure,
    training_curves,
    training_figure,
    transition_figure,
    win_rate_figure,
)
from sage_dialog.evaluation.report.page import inline_image


def image(figure: Figure) -> str:
    png = inline_image(figure)
    assert png.startswith("iVBORw0KGgo")  # the base64 of a PNG signature
    return png


def test_the_figures_of_emotions_and_steps_are_the_same_png_each_time(contents: dict[str, Any]) -> None:
    confusion = contents["emotion_confusion"]
    transitions = table(steps_of(["comfort", r"$\frac{a"]))
    for draw, rows in ((confusion_figure, confusion), (transition_figure, transitions)):
        assert image(draw(rows)) == image(draw(rows)) != image(draw(rows[:0]))


def test_the_figure_of_win_rates_has_every_pair_decided_or_not(contents: dict[str, Any]) -> None:
    def draw(rows: list[dict[str, Any]]) -> str:
        return image(win_rate_figure(from_rows(rows, schemas.WIN_RATES), 0.95))

    rates = to_rows(contents["win_rates"])
    drawn = draw(rates)
    assert drawn == draw(rates) != draw([])
    assert draw([{**row, "low": 0.01} if row is rates[0] else row for row in rates]) != drawn
    none = {"wins_a": 0, "wins_b": 0, "win_rate_b": None, "low": None, "high": None}
    assert draw([*rates, {**rates[0], "judge": r"$\frac{a", **none}]) != drawn


def test_steps_that_differ_from_all_steps_are_framed_and_rare_ones_left_out() -> None:
    def draw(rows: list[dict[str, Any]]) -> str:
        return image(transition_figure(table(rows)))

    steps = steps_of(["comfort", "humor"])
    plain = draw([{**row, "expected": row["expected"] and 0.5} for row in steps])
    assert draw([{**row, "low": 0.2} for row in steps]) != draw(steps) != plain
    rare = [{**row, "n": 9} if row["before"] == "humor" else row for row in steps]
    assert draw(rare) != draw(steps)
    assert draw(rare) == draw([{**row, "share": 0.4} if row["n"] == 9 else row for row in rare])


def table(rows: list[dict[str, Any]]) -> DataFrame:
    return from_rows(rows, schemas.ACTION_TRANSITIONS)


def steps_of(labels: list[str]) -> list[dict[str, Any]]:
    row = {"policy": "p", "field": "a_motivation", "n": 12, "count": 6, "share": 0.5, "low": 0.4, "high": 0.6}
    return [
        {**row, "before": before, "after": after, "expected": None if before is None else 0.3}
        for before in (None, *labels)
        for after in labels
    ]


def test_the_figure_of_actions_is_the_same_png_each_time(replies: DataFrame) -> None:
    actions = action_distribution(replies, 0.95)
    drawn = image(action_figure(actions))
    assert drawn == image(action_figure(actions)) != image(action_figure(actions[actions["policy"] == "sage_1"]))
    assert drawn != image(action_figure(actions[:0]))  # of a run without blocks


def test_trainings_are_drawn_by_policy_measure_and_split() -> None:
    tuned = {"step": 1, "split": "train", "loss": 2.5, "epoch": 1.0, "tokens": 1}
    ranked = {**tuned, "loss": 0.7, "preference_accuracy": 0.5, "preference_margin": 0.1}
    held_out = {**ranked, "step": 2, "split": "held out", "preference_margin": 0.2}
    rows = {"sage_1": [tuned, {**tuned, "step": 3, "loss": 1.5}], "sage_dpo": [ranked, held_out], "sage_x": []}
    logs = {policy: from_rows(of_policy, schemas.TRAINING_LOG) for policy, of_policy in rows.items()}
    assert training_curves(logs) == {
        ("sage_1", "loss"): {"train": [(1, 2.5), (3, 1.5)]},
        ("sage_dpo", "loss"): {"train": [(1, 0.7)], "held out": [(2, 0.7)]},
        ("sage_dpo", "accuracy"): {"train": [(1, 0.5)], "held out": [(2, 0.5)]},
        ("sage_dpo", "margin"): {"train": [(1, 0.1)], "held out": [(2, 0.2)]},
    }
    assert image(training_figure(logs)) == image(training_figure(logs)) != image(training_figure({}))


def test_labels_are_drawn_as_they_are() -> None:
    row = {"policy": "p", "field": "a_motivation", "n": 1, "count": 1, "share": 1.0, "low": 0.2, "high": 1.0}
    assert image(action_figure(from_rows([{**row, "value": r"$\frac{broken"}], schemas.ACTION_DISTRIBUTION)))
