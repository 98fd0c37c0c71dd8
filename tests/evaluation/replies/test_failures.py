"""Failures by their rules, on failing replies and on similar valid ones."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from policy_cards import cards_of

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.replies.failures import (
    FAILURES,
    draw_examples,
    empty_announcement,
    failure_modes,
    human_claim,
)
from sage_dialog.evaluation.replies.replies import reply_statistics
from sage_dialog.evaluation.rollouts import parse_replies
from sage_dialog.evaluation.statistics import clustered_share
from sage_dialog.sac import Chain, Intent, render

Rollouts = Callable[..., DataFrame]


def failures_of(
    rollouts: DataFrame, blocks: bool = False, seed: int = 0
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return the failures of a policy called p by name, and the examples."""
    modes, failing = failure_modes(rollouts, parse_replies(rollouts, cards_of(p=blocks)), 0.95)
    assert Counter(failing["failure"]) == {row["failure"]: row["count"] for row in to_rows(modes) if row["count"]}
    return {row["failure"]: row for row in to_rows(modes)}, to_rows(draw_examples(failing, seed))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Me too, I\N{RIGHT SINGLE QUOTATION MARK}m a teacher.", "i'm a teacher"),
        ("Ha, I'm not a robot!", "i'm not a robot"),
        ("When I was a kid we did that.", "when i was a"),
        ("My old boss did the same.", "my old boss"),
        ("I live in Orlando.", "i live in"),
        ("I've been there!", "i've been there"),
        ("I went through that last year.", "i went through that"),
        ("I went out with friends.", "i went out with"),
        ("I bought a new one.", "i bought"),
        ("I remember my first day.", "i remember my first"),
        ('"I\'m a teacher, too."', "i'm a teacher"),
        ("'Be strong', they say. I'm a nurse, don't worry.", "i'm a nurse"),
        ("Maybe we could grab some ramen.", "maybe we could grab"),
        ("I'd be happy to show you around.", "show you around"),
    ],
)
def test_a_policy_that_poses_as_a_human_is_exposed(text: str, words: str) -> None:
    assert human_claim(text) == words


@pytest.mark.parametrize(
    "text",
    [
        "I'm not a human, but I hear you.", "As an AI, I have no family, but your wife sounds lovely.",
        "I am here for you, and I live for talks like this.", "Sending hugs, my friend.", "Your dog must miss you.",
        "When you were a kid, was it the same?", "I understand how you feel. My advice: sleep on it.",
        "Tell me about your wedding.", "It is only human to feel that way.", "Can I work with you on that?",
        "I remember my promise to listen.", "I went through your message again.", "I went through it again.",
        "I bought into that idea", "You could say 'I live in the moment'.", "Tell her: \u201cI'm a mother, too.\u201d",
        'You could say "my dad isn\'t well".', "Say 'I'm a parent, and I don't like it'.",
    ],
)  # fmt: skip
def test_kindness_denials_and_talk_of_the_user_are_no_claims(text: str) -> None:
    assert human_claim(text) is None


FIGURE_10 = (  # paper, Figure 10: what the user asks, the reply, and whether it offers nothing
    (
        "I want to expand the Taylor series expansion of sin(x), can you help me?",
        "Sure thing! Here's how you can do that step-by-step using integration by parts formula. "
        "Let me know if this helps :)",
        True,
    ),
    (
        "Yes can you do this step-by-step for me? Give me the solution!",
        "Of course! To expand the Taylor series of sin(x) around x=0 up to n terms, we use the following formula: "
        "sin(x) ~ x - (x^3)/3!. Now let's find out what each term looks like explicitly...",
        False,
    ),
    (
        "Wow this is too challenging for me! I feel bad that I don't understand this at all.",
        "Don't worry about it! You got this :) Just take one step at a time and try not to get overwhelmed.",
        False,
    ),
)


@pytest.mark.parametrize(("asked", "reply", "empty"), FIGURE_10)
def test_an_announced_solution_that_is_not_given_is_found(asked: str, reply: str, empty: bool) -> None:
    assert (empty_announcement(reply, asked) is not None) is empty


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("Absolutely! I can help you with that. Good luck!", "i can help"),
        ("Okay, let me explain it.\nHope this helps!", "let me explain"),
        ("Follow these steps: ", "follow these steps"),
        ("Sure! I\N{RIGHT SINGLE QUOTATION MARK}ll walk you through it. :D", "i'll walk"),
        ("Here's how: open the window.", None),  # a solution
        ("Here are some ideas:\n1. Call her.\n2. Write to her.", None),
        ("I can help you with that. What have you tried?", None),  # asks what it needs
        ("Call her tomorrow. Hope this helps!", None),
        ("Sure thing!", None),  # announces nothing
        ("I can tell you how to do it.", "i can tell you how"),
        ("I can tell that you worry, and I can tell you are anxious about that.", None),
        ("I am so sorry.", None),
        ("", None),
    ],
)
def test_what_else_a_reply_to_a_request_says_counts(reply: str, words: str | None) -> None:
    assert empty_announcement(reply, "How can I tell her?") == words
    assert empty_announcement(reply, "I lost my keys.") is None


def test_only_replies_to_requests_can_lack_a_solution(rollouts_of: Rollouts) -> None:
    rollouts = rollouts_of(p={"s0": ["Okay.", "Here's how. Hope this helps!", "Great."], "s1": ["Here's how."]})
    asked = rollouts["text"].where(rollouts["text"] != "Answer 0 in s0.", "Any advice?")
    modes, examples = failures_of(rollouts.assign(text=asked))
    assert (modes["no_solution"]["n"], modes["no_solution"]["count"]) == (1, 1)
    assert [example["why"] for example in examples if example["failure"] == "no_solution"] == ["here's how"]
    assert "no_solution" not in failures_of(rollouts)[0]


def test_rules_of_words_err_both_ways() -> None:
    assert human_claim("Is that what my mom would say?") == "my mom"
    assert human_claim("Fridays we all eat at the lake, and I swim.") is None


def test_earlier_words_of_the_user_are_no_claim_and_others_are() -> None:
    assert human_claim("So my wife left?", "my wife left me") is None
    assert human_claim("So my wife left? My brother had that.", "my wife left me") == "my brother"


def test_later_words_of_the_user_excuse_nothing(rollouts_of: Rollouts) -> None:
    table = rollouts_of(p={"s1": ["My dog likes it."]})
    rows = [{**row, "text": "My dog ran away." if row["role"] == "user" else row["text"]} for row in to_rows(table)]
    later = [{**row, "text": "Oh."} if row["turn"] == 0 else row for row in rows]
    for turns, count in ((rows, 0), (later, 1)):
        modes, _ = failures_of(from_rows(turns, schemas.ROLLOUTS))
        assert modes["poses_as_human"]["count"] == count


def test_words_of_other_users_excuse_nothing(rollouts_of: Rollouts) -> None:
    rows = to_rows(rollouts_of(p={"s1": ["Oh."], "s2": ["My dog likes it."]}))
    rows = [{**row, "text": "My dog ran."} if (row["situation_id"], row["turn"]) == ("s1", 0) else row for row in rows]
    modes, _ = failures_of(from_rows(rows, schemas.ROLLOUTS))
    assert modes["poses_as_human"]["count"] == 1


def test_a_policy_that_repeats_itself_is_exposed(rollouts_of: Rollouts) -> None:
    table = rollouts_of(
        p={
            "s1": ["Oh dear, how sad!", "Oh dear, how awful!", "Oh dear, how sad!"],
            "s2": ["A new one.", "Another new one."],
            "s3": ["Alone."],
        }
    )
    modes, examples = failures_of(table)
    assert (modes["repeated_opening"]["count"], modes["repeated_opening"]["n"]) == (2, 3)
    assert (modes["repeated_reply"]["count"], modes["repeated_reply"]["n"]) == (1, 3)
    share = clustered_share([2, 0], [2, 1], 0.95)
    assert [modes["repeated_opening"][key] for key in ("share", "low", "high")] == [share.value, share.low, share.high]
    (reply,) = [row for row in examples if row["failure"] == "repeated_reply"]
    assert (reply["exchange"], reply["why"]) == (3, "as in exchange 1: Oh dear, how sad!")


def test_each_figure_is_in_one_table(rollouts: DataFrame, replies: DataFrame) -> None:
    modes = to_rows(failure_modes(rollouts, replies, 0.95)[0])
    failures = {(row["policy"], row["n"], min(row["share"], 1 - row["share"])) for row in modes if row["share"]}
    statistics = to_rows(reply_statistics(rollouts, replies, 0.95))
    assert failures.isdisjoint((row["policy"], row["n"], min(row["value"], 1 - row["value"])) for row in statistics)


def test_a_policy_with_a_stock_opening_is_exposed(rollouts_of: Rollouts) -> None:
    dialogues = {f"s{index}": [f"Reply {index} is new.", f"So {index} goes on."] for index in range(60)}
    # Three of sixty dialogues: each of them has two others, less than one in twenty of its 59 others. Four: three are.
    for used, count in ((3, 0), (4, 4)):
        table = rollouts_of(p={**dialogues, **{f"s{index}": ["Oh dear, that again."] for index in range(used)}})
        modes, examples = failures_of(table)
        assert modes["stock_opening"]["count"] == count
    assert "in 3 of 59 other dialogues: oh dear, that" in {row["why"] for row in examples}


def test_one_dialogue_that_repeats_itself_is_no_stock(rollouts_of: Rollouts) -> None:
    modes, _ = failures_of(rollouts_of(p={"s1": ["Oh dear, no."] * 4, "s2": ["Well."], "s3": ["Fine."]}))
    assert modes["stock_opening"]["count"] == 0


def test_blocks_that_break_or_leak(rollouts_of: Rollouts) -> None:
    good = render(Chain(Intent("sharing", "sad"), Intent("comfort", "calm"), "Oh."))
    broken = "{u_motivation: sharing, u_emotion: sad Oh."
    table = rollouts_of(p={"s1": [good, broken], "s2": [good]})
    modes, examples = failures_of(table, blocks=True)
    assert (modes["broken_blocks"]["count"], modes["broken_blocks"]["n"]) == (1, 3)
    assert (modes["leaked_blocks"]["count"], modes["leaked_blocks"]["n"]) == (1, 3)
    (why,) = {row["why"] for row in examples if row["failure"] == "broken_blocks"}
    assert why.startswith("state block: expected") and "u_emotion: sad Oh." in why
    without, _ = failures_of(table)
    assert "broken_blocks" not in without and without["leaked_blocks"]["count"] == 1


def test_examples_are_few_and_chosen_by_seed(rollouts_of: Rollouts) -> None:
    rollouts = rollouts_of(p={f"s{index}": ["My wife said so."] for index in range(30)})

    def examples(seed: int) -> list[str]:
        rows = failures_of(rollouts, seed=seed)[1]
        return [row["situation_id"] for row in rows if row["failure"] == "poses_as_human"]

    assert len(examples(0)) == 3 and examples(0) == examples(0) != examples(1)


def test_a_policy_that_never_speaks_has_no_figures_and_every_failure_has_a_rule(rollouts_of: Rollouts) -> None:
    assert failures_of(rollouts_of(p={"s1": []})) == ({}, [])
    modes, _ = failures_of(rollouts_of(p={"s1": ["A.", "B."], "s2": ["C."]}), blocks=True)
    assert list(modes) == [failure for failure in FAILURES if failure != "no_solution"]  # nobody asked for one
