"""Emotion accuracy, action distributions and reply statistics on dialogues small enough to count by hand."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.evaluation.external_scores import mean_scores
from sage_dialog.evaluation.replies.emotions import emotion_accuracy, majority_share
from sage_dialog.evaluation.replies.replies import action_distribution, action_transitions, reply_statistics
from sage_dialog.evaluation.report.figures import (
    action_figure,
    confusion_figure,
    differing_steps,
    training_curves,
    training_figure,
    transition_figure,
    win_rate_figure,
)
from sage_dialog.evaluation.report.report import Contents
from sage_dialog.evaluation.statistics import clustered_share, proportion_interval
from sage_dialog.sac import Chain, Intent, render

Rollouts = Callable[[dict[str, list[str]]], pa.Table]


def reply(
    emotion: str | None, text: str = "Oh.", motivation: str | None = "comfort", feeling: str | None = "calm"
) -> str:
    return render(Chain(Intent("sharing", emotion), Intent(motivation, feeling), text))


BROKEN = "{u_motivation: sharing, u_emotion: afraid Oh."


@pytest.fixture
def labelled() -> pa.Table:
    emotions = {"s1": "Afraid", "s2": "joyful", "s3": "joyful", "s4": "lonely"}
    rows = [
        {"situation_id": id_, "split": "train" if id_ == "s4" else "test", "emotion": emotion, "text": id_}
        for id_, emotion in emotions.items()
    ]
    return pa.Table.from_pylist(rows, schema=schemas.SITUATIONS)


def test_emotion_accuracy_by_hand(rollouts_of: Rollouts, labelled: pa.Table) -> None:
    rollouts = {
        "sage_1": rollouts_of(
            {"s1": [reply("afraid"), reply("angry")], "s2": [reply("joyful")], "s3": [BROKEN, reply("joyful")]}
        ),
        "sage_0": rollouts_of({"s1": ["Oh."], "s2": ["Oh."], "s3": ["Oh."]}),
    }
    rows = emotion_accuracy(rollouts, ["sage_1"], labelled, 0.95)
    # Labels are compared in lower case; a broken reply is wrong; s2 ended before exchange 2.
    assert [(row["policy"], row["exchange"], row["n"], row["correct"]) for row in rows] == [
        ("sage_1", 1, 3, 2),
        ("sage_1", 2, 2, 1),
    ]
    assert rows[0]["accuracy"] == pytest.approx(2 / 3)
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx(proportion_interval(2, 3, 0.95))
    assert {row["chance"] for row in rows} == {1 / 3}
    assert pa.Table.from_pylist(rows, schema=schemas.EMOTION_ACCURACY).num_rows == 2


def test_a_played_situation_without_label_is_named(rollouts_of: Rollouts, labelled: pa.Table) -> None:
    with pytest.raises(ValueError, match="sage_1 played situation 's9'"):
        emotion_accuracy({"sage_1": rollouts_of({"s9": ["Oh."]})}, ["sage_1"], labelled, 0.95)


def test_majority_share_is_of_the_split(labelled: pa.Table) -> None:
    assert majority_share(labelled, "test") == pytest.approx(2 / 3)
    assert majority_share(labelled, "train") == 1.0
    with pytest.raises(ValueError, match="no valid situation"):
        majority_share(labelled, "valid")


def test_action_distribution_by_hand(rollouts_of: Rollouts) -> None:
    rollouts = {
        "sage_1": rollouts_of(
            {
                "s1": [reply("sad", motivation="humor"), reply("sad", motivation="comfort", feeling=None)],
                "s2": [reply("sad", motivation="comfort"), BROKEN],
            }
        )
    }
    rows = action_distribution(rollouts, ["sage_1"], 0.95)
    assert [(row["field"], row["value"], row["n"], row["count"]) for row in rows] == [
        ("a_motivation", "comfort", 3, 2),
        ("a_motivation", "humor", 3, 1),
        ("a_emotion", "calm", 3, 2),
        ("a_emotion", "null", 3, 1),
    ]
    expected = clustered_share([1, 1], [2, 1], 0.95)
    assert [rows[0][key] for key in ("share", "low", "high")] == [expected.value, expected.low, expected.high]
    assert pa.Table.from_pylist(rows, schema=schemas.ACTION_DISTRIBUTION).num_rows == 4


def test_a_policy_whose_blocks_never_parse_has_no_actions(rollouts_of: Rollouts) -> None:
    rollouts = {"sage_1": rollouts_of({"s1": [BROKEN]})}
    assert action_distribution(rollouts, ["sage_1"], 0.95) == []


def test_reply_statistics_by_hand(rollouts_of: Rollouts) -> None:
    rollouts = {
        "sage_0": rollouts_of(
            {
                "s1": ["That is so hard. Why?", "That is so sad? Oh.", "That is so hard. Why?"],
                "s2": ["Oh dear!", "Tell me?? more?  "],
            }
        ),
        "sage_1": rollouts_of({"s1": [reply("sad", "Oh dear?")], "s2": [BROKEN]}),
    }
    rows = reply_statistics(rollouts, 0.95)
    found = {(row["policy"], row["statistic"]): (row["value"], row["n"]) for row in rows}
    assert found == {
        ("sage_0", "replies_per_dialogue"): (2.5, 2),
        ("sage_0", "mean_words"): ((5 + 5 + 5 + 2 + 3) / 5, 5),
        ("sage_0", "question_share"): (3 / 5, 5),
        ("sage_0", "questions_per_reply"): (5 / 5, 5),  # also inside a reply; marks in a row are one
        ("sage_1", "replies_per_dialogue"): (1.0, 2),
        # The words as heard: what is broken is heard as it was written.
        ("sage_1", "mean_words"): ((2 + 5) / 2, 2),
        ("sage_1", "question_share"): (1 / 2, 2),
        ("sage_1", "questions_per_reply"): (1 / 2, 2),
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert pa.Table.from_pylist(rows, schema=schemas.REPLY_STATISTICS).num_rows == len(rows)


def test_a_policy_that_played_nothing_has_no_statistics(rollouts_of: Rollouts) -> None:
    rollouts = {"sage_0": rollouts_of({"s1": ["Oh?"]}), "sage_1": rollouts_of({"s1": ["Oh?"]}).slice(0, 0)}
    assert {row["policy"] for row in reply_statistics(rollouts, 0.95)} == {"sage_0"}


def test_transitions_by_hand(rollouts_of: Rollouts) -> None:
    one, two = reply("sad", motivation="comfort"), reply("sad", motivation="humor")
    rollouts = {
        "p": rollouts_of({"s1": [one, one, two, one], "s2": [one, BROKEN, two, two], "s3": [two, one], "s4": [BROKEN]})
    }
    rows = [row for row in action_transitions(rollouts, ["p"], 0.95) if row["field"] == "a_motivation"]
    # What is broken is neither reached nor left; s4 has no first reply that counts.
    assert [(row["before"], row["after"], row["count"], row["n"]) for row in rows] == [
        (None, "comfort", 2, 3),
        (None, "humor", 1, 3),
        ("humor", "comfort", 2, 3),
        ("humor", "humor", 1, 3),
        ("comfort", "comfort", 1, 2),
        ("comfort", "humor", 1, 2),
    ]
    assert [row["expected"] for row in rows] == [None, None, 3 / 5, 2 / 5, 3 / 5, 2 / 5]
    for row, (taking, steps) in zip(rows[2:], [([1, 0, 1], [1, 1, 1]), ([0, 1, 0], [1, 1, 1])], strict=False):
        share = clustered_share(taking, steps, 0.95)
        assert (row["share"], row["low"], row["high"]) == (share.value, share.low, share.high)
    assert pa.Table.from_pylist(rows, schema=schemas.ACTION_TRANSITIONS).num_rows == 6


def test_steps_of_one_dialogue_are_one_cluster(rollouts_of: Rollouts) -> None:
    one, two = reply("sad", motivation="comfort"), reply("sad", motivation="humor")
    dialogues = {"s1": [one] * 9, "s2": [one] * 3 + [two], "s3": [one, two, one, two], "s4": [two, two]}
    rows = action_transitions({"p": rollouts_of(dialogues)}, ["p"], 0.95)
    found = {(row["before"], row["after"]): row for row in rows if row["field"] == "a_motivation"}
    share = clustered_share([8, 2, 0, 0], [8, 3, 2, 0], 0.95)
    stays = found["comfort", "comfort"]
    assert [stays[key] for key in ("n", "share", "low", "high")] == [13, share.value, share.low, share.high]


def test_a_step_that_never_happens_has_its_row_and_is_framed_where_many_do(rollouts_of: Rollouts) -> None:
    one, two, three = (reply("sad", motivation=label) for label in ("comfort", "humor", "advice"))
    dialogues = {f"{number}": [one, one, two, three, two] for number in range(40)}
    rows = action_transitions({"p": rollouts_of(dialogues)}, ["p"], 0.95)
    steps = {(row["before"], row["after"]): row for row in rows if row["field"] == "a_motivation"}
    never = steps["comfort", "advice"]
    assert [never[key] for key in ("n", "count", "share", "expected")] == [80, 0, 0.0, 0.25]
    # Of a share of 0 each dialogue counts once: its steps from "comfort" depend on each other.
    assert (never["low"], never["high"]) == proportion_interval(0, 40, 0.95)
    assert set(steps) - {(None, "comfort")} == {(a, b) for a in ("comfort", "humor", "advice") for b in
                                                ("comfort", "humor", "advice")}  # fmt: skip
    framed = differing_steps(steps.values())
    assert {("comfort", "advice"), ("humor", "comfort"), ("humor", "humor"), ("advice", "humor")} <= framed
    few = action_transitions({"p": rollouts_of({"1": [one, one, two, three, two]})}, ["p"], 0.95)
    assert differing_steps(few) == set()


def test_rows_of_steps_never_made_are_of_the_ten_most_frequent_labels(rollouts_of: Rollouts) -> None:
    said = [reply("sad", motivation=f"label {number:02}") for number in range(12)]
    dialogues = {f"{a} {b}": [said[0], said[a]] * b for a in range(1, 12) for b in (2, 12 - a)}
    rows = action_transitions({"p": rollouts_of(dialogues)}, ["p"], 0.95)
    never = [row for row in rows if row["field"] == "a_motivation" and not row["count"]]
    labels = {f"label {number:02}" for number in range(10)}
    assert never and {row[side] for row in never for side in ("before", "after")} <= labels


def test_the_figures_of_emotions_and_steps_are_the_same_png_each_time(contents: Contents) -> None:
    confusion = contents.emotion_confusion.to_pylist()
    for figure, rows in ((confusion_figure, confusion), (transition_figure, steps_of(["comfort", r"$\frac{a"]))):
        image = figure(rows)
        assert image.startswith(b"\x89PNG\r\n\x1a\n") and image == figure(rows) != figure([])
        assert figure([]).startswith(b"\x89PNG")


def test_the_figure_of_win_rates_is_of_every_pair_and_of_one_that_nobody_decided(contents: Contents) -> None:
    rates = contents.win_rates.to_pylist()
    image = win_rate_figure(rates, 0.95)
    assert image.startswith(b"\x89PNG\r\n\x1a\n") and image == win_rate_figure(rates, 0.95) != win_rate_figure([], 0.95)
    assert win_rate_figure([{**row, "low": 0.01} if row is rates[0] else row for row in rates], 0.95) != image
    undecided = {
        **rates[0],
        "judge": r"$\frac{a",
        "wins_a": 0,
        "wins_b": 0,
        "win_rate_b": None,
        "low": None,
        "high": None,
    }
    assert win_rate_figure([*rates, undecided], 0.95) != image


def test_steps_that_differ_from_all_steps_are_framed_and_rare_ones_left_out() -> None:
    steps = steps_of(["comfort", "humor"])
    plain = transition_figure([{**row, "expected": row["expected"] and 0.5} for row in steps])
    assert transition_figure([{**row, "low": 0.2} for row in steps]) != transition_figure(steps) != plain
    rare = [{**row, "n": 9} if row["before"] == "humor" else row for row in steps]
    assert transition_figure(rare) != transition_figure(steps)
    assert transition_figure(rare) == transition_figure(
        [{**row, "share": 0.4} if row["n"] == 9 else row for row in rare]
    )


def steps_of(labels: list[str]) -> list[dict[str, object]]:
    row = {"policy": "p", "field": "a_motivation", "n": 12, "count": 6, "share": 0.5, "low": 0.4, "high": 0.6}
    return [
        {**row, "before": before, "after": after, "expected": None if before is None else 0.3}
        for before in (None, *labels)
        for after in labels
    ]


def test_outside_scores_are_averaged_by_exchange_or_all(rollouts_of: Rollouts) -> None:
    rows = [
        {
            "scorer": "world",
            "policy": policy,
            "situation_id": id_,
            "statistic": "suitable",
            "exchange": exchange,
            "value": v,
        }
        for policy, id_, exchange, v in [
            ("sage_0", "s1", 1, 0.0),
            ("sage_0", "s1", 2, 1.0),
            ("sage_0", "s2", 1, 1.0),
            ("sage_1", "s1", 1, 0.5),
        ]
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.EXTERNAL_SCORES)
    first, every = mean_scores(table, 0.95, exchange=1)["suitable"], mean_scores(table, 0.95)["suitable"]
    assert {policy: (mean.value, mean.n) for policy, mean in first.items()} == {"sage_0": (0.5, 2), "sage_1": (0.5, 1)}
    assert {policy: (mean.value, mean.n) for policy, mean in every.items()} == {
        "sage_0": (pytest.approx(2 / 3), 3),
        "sage_1": (0.5, 1),
    }


def test_an_outside_score_beyond_one_is_named() -> None:
    row = {"scorer": "w", "policy": "p", "situation_id": "s7", "statistic": "suitable", "exchange": 1, "value": 1.5}
    with pytest.raises(ValueError, match=r"s7.*not between 0 and 1"):
        mean_scores(pa.Table.from_pylist([row], schema=schemas.EXTERNAL_SCORES), 0.95)


def test_the_figure_is_the_same_png_each_time(rollouts: dict[str, pa.Table]) -> None:
    actions = action_distribution(rollouts, ["sage_1", "sage_dpo"], 0.95)
    image = action_figure(actions)
    assert image.startswith(b"\x89PNG\r\n\x1a\n") and image == action_figure(actions)
    assert image != action_figure([row for row in actions if row["policy"] == "sage_1"])


def test_the_figure_of_a_run_without_blocks_is_still_a_png() -> None:
    assert action_figure([]).startswith(b"\x89PNG\r\n\x1a\n")


def test_trainings_are_drawn_by_policy_measure_and_split() -> None:
    tuned = {"step": 1, "split": "train", "loss": 2.5, "preference_accuracy": None, "preference_margin": None}
    ranked = {**tuned, "loss": 0.7, "preference_accuracy": 0.5, "preference_margin": 0.1}
    held_out = {**ranked, "step": 2, "split": "held out", "preference_margin": 0.2}
    logs = {"sage_1": [tuned, {**tuned, "step": 3, "loss": 1.5}], "sage_dpo": [ranked, held_out], "sage_x": []}
    assert training_curves(logs) == {
        ("sage_1", "loss"): {"train": [(1, 2.5), (3, 1.5)]},
        ("sage_dpo", "loss"): {"train": [(1, 0.7)], "held out": [(2, 0.7)]},
        ("sage_dpo", "accuracy"): {"train": [(1, 0.5)], "held out": [(2, 0.5)]},
        ("sage_dpo", "margin"): {"train": [(1, 0.1)], "held out": [(2, 0.2)]},
    }
    image = training_figure(logs)
    assert image.startswith(b"\x89PNG") and image == training_figure(logs) != training_figure({})


def test_labels_are_drawn_as_they_are() -> None:
    row = {"policy": "p", "field": "a_motivation", "n": 1, "count": 1, "share": 1.0, "low": 0.2, "high": 1.0}
    assert action_figure([{**row, "value": r"$\frac{broken"}]).startswith(b"\x89PNG")
