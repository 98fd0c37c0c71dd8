"""Actions and statistics of replies on dialogues small enough to count by hand."""

from collections.abc import Callable
from typing import Any

from policy_cards import cards_of

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.replies.replies import action_distribution, action_transitions, reply_statistics
from sage_dialog.evaluation.report.figures import differing_steps
from sage_dialog.evaluation.rollouts import parse_replies
from sage_dialog.evaluation.statistics import clustered_share, proportion_interval
from sage_dialog.sac import Chain, Intent, render

Rollouts = Callable[..., DataFrame]
Replies = Callable[..., DataFrame]


def reply(
    emotion: str | None, text: str = "Oh.", motivation: str | None = "comfort", feeling: str | None = "calm"
) -> str:
    return render(Chain(Intent("sharing", emotion), Intent(motivation, feeling), text))


BROKEN = "{u_motivation: sharing, u_emotion: afraid Oh."


def test_action_distribution_by_hand(replies_of: Replies) -> None:
    replies = replies_of(
        sage_1={
            "s1": [reply("sad", motivation="humor"), reply("sad", motivation="comfort", feeling=None)],
            "s2": [reply("sad", motivation="comfort"), BROKEN],
        }
    )
    rows = to_rows(action_distribution(replies, 0.95))
    assert [(row["field"], row["value"], row["n"], row["count"]) for row in rows] == [
        ("a_motivation", "comfort", 3, 2),
        ("a_motivation", "humor", 3, 1),
        ("a_emotion", "calm", 3, 2),
        ("a_emotion", "null", 3, 1),
    ]
    expected = clustered_share([1, 1], [2, 1], 0.95)
    assert [rows[0][key] for key in ("share", "low", "high")] == [expected.value, expected.low, expected.high]


def test_a_policy_whose_blocks_never_parse_has_no_actions(replies_of: Replies) -> None:
    assert action_distribution(replies_of(sage_1={"s1": [BROKEN]}), 0.95).empty


def statistics_of(rollouts: DataFrame) -> list[dict[str, Any]]:
    return to_rows(reply_statistics(rollouts, parse_replies(rollouts, cards_of(sage_1=True)), 0.95))


def test_reply_statistics_by_hand(rollouts_of: Rollouts) -> None:
    rollouts = rollouts_of(
        sage_0={
            "s1": ["That is so hard. Why?", "That is so sad? Oh.", "That is so hard. Why?"],
            "s2": ["Oh dear!", "Tell me?? more?  "],
        },
        sage_1={"s1": [reply("sad", "Oh dear?")], "s2": [BROKEN]},
    )
    rows = statistics_of(rollouts)
    found = {(row["policy"], row["statistic"]): (row["value"], row["n"]) for row in rows}
    assert found == {
        ("sage_0", "replies_per_dialogue"): (2.5, 2),
        ("sage_0", "mean_words"): ((5 + 5 + 5 + 2 + 3) / 5, 5),
        ("sage_0", "question_share"): (3 / 5, 5),
        ("sage_0", "questions_per_reply"): (5 / 5, 5),  # also inside a reply; marks in a row are one
        ("sage_1", "replies_per_dialogue"): (1.0, 2),
        # The text that the user reads: broken blocks are part of it.
        ("sage_1", "mean_words"): ((2 + 5) / 2, 2),
        ("sage_1", "question_share"): (1 / 2, 2),
        ("sage_1", "questions_per_reply"): (1 / 2, 2),
    }
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_a_dialogue_without_a_reply_counts_as_a_dialogue(rollouts_of: Rollouts) -> None:
    rows = {row["statistic"]: row for row in statistics_of(rollouts_of(sage_0={"s1": ["Oh?", "Why?"], "s2": []}))}
    assert (rows["replies_per_dialogue"]["value"], rows["replies_per_dialogue"]["n"]) == (1.0, 2)
    assert (rows["mean_words"]["value"], rows["mean_words"]["n"]) == (1.0, 2)


def test_a_policy_that_played_nothing_has_no_statistics(rollouts_of: Rollouts) -> None:
    rollouts = rollouts_of(sage_0={"s1": ["Oh?"]}, sage_1={})
    assert {row["policy"] for row in statistics_of(rollouts)} == {"sage_0"}


def transitions_of(replies: DataFrame) -> list[dict[str, Any]]:
    return to_rows(action_transitions(replies, 0.95))


def test_transitions_by_hand(replies_of: Replies) -> None:
    comfort, humor = reply("sad", motivation="comfort"), reply("sad", motivation="humor")
    replies = replies_of(
        p={
            "s1": [comfort, comfort, humor, comfort],
            "s2": [comfort, BROKEN, humor, humor],
            "s3": [humor, comfort],
            "s4": [BROKEN],
        }
    )
    rows = [row for row in transitions_of(replies) if row["field"] == "a_motivation"]
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
    for row, (hits, steps) in zip(rows[2:], [([1, 0, 1], [1, 1, 1]), ([0, 1, 0], [1, 1, 1])], strict=False):
        share = clustered_share(hits, steps, 0.95)
        assert (row["share"], row["low"], row["high"]) == (share.value, share.low, share.high)


def test_steps_of_one_dialogue_are_one_cluster(replies_of: Replies) -> None:
    comfort, humor = reply("sad", motivation="comfort"), reply("sad", motivation="humor")
    dialogues = {
        "s1": [comfort] * 9,
        "s2": [comfort] * 3 + [humor],
        "s3": [comfort, humor, comfort, humor],
        "s4": [humor, humor],
    }
    rows = transitions_of(replies_of(p=dialogues))
    found = {(row["before"], row["after"]): row for row in rows if row["field"] == "a_motivation"}
    share = clustered_share([8, 2, 0, 0], [8, 3, 2, 0], 0.95)
    repeated = found["comfort", "comfort"]
    assert [repeated[key] for key in ("n", "share", "low", "high")] == [13, share.value, share.low, share.high]


def test_a_step_that_never_happens_has_its_row_and_is_framed_where_many_do(replies_of: Replies) -> None:
    comfort, humor, three = (reply("sad", motivation=label) for label in ("comfort", "humor", "advice"))
    dialogues = {f"{number}": [comfort, comfort, humor, three, humor] for number in range(40)}
    rows = transitions_of(replies_of(p=dialogues))
    steps = {(row["before"], row["after"]): row for row in rows if row["field"] == "a_motivation"}
    never = steps["comfort", "advice"]
    assert [never[key] for key in ("n", "count", "share", "expected")] == [80, 0, 0.0, 0.25]
    # Of a share of 0 each dialogue counts once: its steps from "comfort" depend on each other.
    assert (never["low"], never["high"]) == proportion_interval(0, 40, 0.95)
    assert set(steps) - {(None, "comfort")} == {(a, b) for a in ("comfort", "humor", "advice") for b in
                                                ("comfort", "humor", "advice")}  # fmt: skip
    framed = differing_steps(list(steps.values()))
    assert {("comfort", "advice"), ("humor", "comfort"), ("humor", "humor"), ("advice", "humor")} <= framed
    few = transitions_of(replies_of(p={"1": [comfort, comfort, humor, three, humor]}))
    assert differing_steps(few) == set()


def test_rows_of_steps_never_made_are_of_the_ten_most_frequent_labels(replies_of: Replies) -> None:
    said = [reply("sad", motivation=f"label {number:02}") for number in range(12)]
    dialogues = {f"{a} {b}": [said[0], said[a]] * b for a in range(1, 12) for b in (2, 12 - a)}
    rows = transitions_of(replies_of(p=dialogues))
    never = [row for row in rows if row["field"] == "a_motivation" and not row["count"]]
    labels = {f"label {number:02}" for number in range(10)}
    assert never and {row[side] for row in never for side in ("before", "after")} <= labels
