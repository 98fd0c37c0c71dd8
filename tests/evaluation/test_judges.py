"""Judges whose faults are known are shown for what they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.evaluation.agreement import judge_agreement
from sage_dialog.evaluation.judges import judge_checks, self_preference
from sage_dialog.evaluation.length import length_control
from sage_dialog.evaluation.resampling import Bootstrap
from sage_dialog.evaluation.votes import win_rates

SITUATIONS = 300


def vote(judge: str, situation: str, order: str, answer: str, pair: tuple[str, str] = ("old", "new")) -> dict[str, Any]:
    row = {"judge": judge, "policy_a": pair[0], "policy_b": pair[1], "situation_id": situation}
    return row | {"order": order, "vote": answer}


def both(judge: str, outcomes: dict[str, str], pair: tuple[str, str] = ("old", "new")) -> list[dict[str, Any]]:
    return [vote(judge, situation, order, said, pair) for situation, said in outcomes.items() for order in ("ab", "ba")]


@pytest.fixture
def world() -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Words of two policies, new the longer one more often, and who is truly better: new on 70 % whatever the words."""
    draw = np.random.default_rng(11)
    ids = [f"s{place}" for place in range(SITUATIONS)]
    words = {
        policy: dict(zip(ids, draw.normal(mean, 15, SITUATIONS).astype(int).tolist(), strict=True))
        for policy, mean in (("old", 80), ("new", 90))
    }
    better = dict(zip(ids, np.where(draw.random(SITUATIONS) < 0.7, "b", "a").tolist(), strict=True))
    return words, better


@pytest.fixture
def judged(world: tuple[dict[str, dict[str, int]], dict[str, str]]) -> list[dict[str, Any]]:
    words, better = world
    draw = np.random.default_rng(12)
    votes = []
    for situation, truth in better.items():
        longer = words["new"][situation] - words["old"][situation]
        answers: dict[str, Callable[[str], str]] = {
            "right": lambda order, truth=truth: truth,
            "first": lambda order: order[0],
            "longer": lambda order, longer=longer: "b" if longer > 0 else "a" if longer < 0 else "tie",
            "random": lambda order: str(draw.choice(["a", "b"])),
            "mumbling": lambda order: "unreadable",
        }
        votes += [
            vote(judge, situation, order, says(order)) for judge, says in answers.items() for order in ("ab", "ba")
        ]
    return votes


def test_each_judge_is_exposed(
    judged: list[dict[str, Any]], world: tuple[dict[str, dict[str, int]], dict[str, str]], bootstrap: Bootstrap
) -> None:
    words, better = world
    rates = {row["judge"]: row for row in win_rates(judged, bootstrap)}
    rows = judge_checks(judged, words, 0.95)
    checks = {(row["judge"], row["statistic"]): row for row in rows}
    lengths = {row["judge"]: row for row in length_control(judged, words, 0.95)}
    truth = {row["judge_a"]: row for row in judge_agreement(judged + both("truth", better), bootstrap)}

    def says(judge: str, statistic: str) -> float | None:
        return checks[judge, statistic]["value"] if (judge, statistic) in checks else None

    def even(judge: str, statistic: str) -> bool:
        return bool(checks[judge, statistic]["low"] <= 0.5 <= checks[judge, statistic]["high"])

    # The right one: new is better, order does not matter, and at equal length it is as much better.
    assert rates["right"]["p_adjusted"] < 1e-6 and rates["right"]["low"] < 0.7 < rates["right"]["high"]
    assert says("right", "order_flips") == 0 and even("right", "names_first")
    assert lengths["right"]["low"] > 0.6
    # The one that always says the first: every order flips, nothing is decided.
    assert says("first", "order_flips") == says("first", "names_first") == 1
    assert checks["first", "names_first"]["low"] > 0.98
    assert (rates["first"]["inconsistent"], rates["first"]["win_rate_b"]) == (SITUATIONS, None)
    assert says("first", "names_longer") is None
    # The one that counts words: new seems better, and is not at equal length.
    assert rates["longer"]["p_adjusted"] < 1e-3 and says("longer", "names_longer") == 1
    assert lengths["longer"]["low"] < 0.5 < lengths["longer"]["high"]
    # The one that draws lots: half the orders flip, no place and no length is favoured, no policy either.
    assert says("random", "order_flips") == pytest.approx(0.5, abs=0.08)
    assert even("random", "names_first") and even("random", "names_longer")
    assert rates["random"]["p_value"] > 0.01
    # The one that cannot be read is counted, and named by nothing else.
    assert says("mumbling", "unreadable") == 1 and rates["mumbling"]["unreadable"] == SITUATIONS
    assert {statistic for judge, statistic in checks if judge == "mumbling"} == {"unreadable"}
    # And against the truth: kappa, and the same winner where both name one.
    last = {row["judge_a"]: row for row in judge_agreement(judged + both("truth", better), bootstrap)
            if row["judge_b"] == "truth"}  # fmt: skip
    assert last["right"]["kappa"] == last["right"]["same_winner"] == 1
    assert last["random"]["same_low"] < 0.5 + 0.1 and abs(last["random"]["kappa"]) < 0.1
    assert last["first"]["kappa"] == pytest.approx(0) and last["first"]["decided"] == 0
    assert truth and pa.Table.from_pylist(rows, schema=schemas.JUDGE_CHECKS).num_rows == len(rows)


def test_checks_by_hand() -> None:
    answers = {
        "s1": ("a", "a"),  # a wins, and says more: first named once in two
        "s2": ("a", "b"),  # the first, twice
        "s3": ("b", "a"),  # the second, twice
        "s4": ("tie", "b"),  # a tie, and the first
        "s5": ("unreadable", "b"),  # the first
        "s6": ("b", "b"),  # b wins, and says as much
        "s7": ("b", "b"),  # b wins, and says less
    }
    votes = [
        vote("j", situation, order, said)
        for situation, pair in answers.items()
        for order, said in zip(("ab", "ba"), pair, strict=True)
    ]
    words = {"old": dict.fromkeys(answers, 20), "new": dict.fromkeys(answers, 10) | {"s6": 20}}
    rows = {row["statistic"]: (row["n"], row["value"]) for row in judge_checks(votes, words, 0.95)}
    assert rows == {
        "order_flips": (6, 3 / 6),
        "names_first": (12, pytest.approx(7 / 12)),
        "names_longer": (2, 1 / 2),
        "says_tie": (13, pytest.approx(1 / 13)),
        "unreadable": (14, pytest.approx(1 / 14)),
    }


CARDS = [
    {"policy": "sage_0", "kind": "base", "base": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    {"policy": "sage_1", "kind": "adapter", "base": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    {"policy": "sage_2", "kind": "adapter", "base": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    {"policy": "outside", "kind": "base", "base": "other/model"},
]
MIXTRAL = "mixtral-8x7b-instruct-v0.1 judge 1a2b3c4d"


def preferences(letters: str) -> dict[str, str]:
    return {f"s{place}": {"a": "a", "b": "b", "t": "tie"}[letter] for place, letter in enumerate(letters)}


def test_a_judge_is_set_against_those_that_are_no_kin(bootstrap: Bootstrap) -> None:
    pair = ("sage_0", "outside")
    votes = [
        *both(MIXTRAL, preferences("a" * 60 + "t" * 20 + "b" * 20), pair),
        *both("offline-rules-judge", preferences("a" * 30 + "t" * 20 + "b" * 50), pair),
        *both("gpt judge 00000000", preferences("a" * 50 + "b" * 50), pair),
    ]
    (row,) = self_preference(votes, CARDS, bootstrap)
    assert (row["judge"], row["policy"], row["relation"], row["other_policy"]) == (
        MIXTRAL,
        "sage_0",
        "same model",
        "outside",
    )
    assert (row["n"], row["share"], row["neutral_share"]) == (100, 0.7, 0.45)
    assert row["difference"] == pytest.approx(0.25) and 0 < row["low"] < 0.25 < row["high"]
    assert pa.Table.from_pylist([row], schema=schemas.SELF_PREFERENCE).num_rows == 1


def test_kin_on_the_other_side_of_the_pair_gives_the_same_figures(bootstrap: Bootstrap) -> None:
    (row,) = self_preference(
        [
            *both(MIXTRAL, preferences("b" * 60 + "t" * 20 + "a" * 20), ("outside", "sage_0")),
            *both("gpt judge 00000000", preferences("b" * 30 + "t" * 30 + "a" * 40), ("outside", "sage_0")),
        ],
        CARDS,
        bootstrap,
    )
    assert (row["policy"], row["other_policy"]) == ("sage_0", "outside")
    assert (row["share"], row["neutral_share"], row["difference"]) == pytest.approx((0.7, 0.45, 0.25))


def test_a_policy_without_a_card_is_named(bootstrap: Bootstrap) -> None:
    with pytest.raises(ValueError, match="sage_9 was judged, but the table `policy_cards` does not hold it"):
        self_preference(both("j", preferences("ab"), ("sage_1", "sage_9")), CARDS, bootstrap)


def test_the_closer_policy_is_the_model_itself_before_one_made_from_it(bootstrap: Bootstrap) -> None:
    votes = [
        *both(MIXTRAL, preferences("aab"), ("sage_2", "sage_0")),
        *both(MIXTRAL, preferences("aab"), ("sage_1", "sage_2")),  # equally close: no row
        *both(MIXTRAL, preferences("aab"), ("outside", "sage_1")),
        *both("gpt judge 00000000", preferences("bbb"), ("sage_1", "sage_2")),
    ]
    rows = self_preference(votes, CARDS, bootstrap)
    assert [(row["policy"], row["relation"], row["other_policy"]) for row in rows] == [
        ("sage_0", "same model", "sage_2"),
        ("sage_1", "same base", "outside"),
    ]
    # Nobody neutral judged these pairs, so quality and preference cannot be told apart.
    assert [row["share"] for row in rows] == pytest.approx([1 / 3, 1 / 3])
    table = pa.Table.from_pylist(rows, schema=schemas.SELF_PREFERENCE)
    assert table["difference"].to_pylist() == table["neutral_share"].to_pylist() == [None, None]


def test_a_judge_served_under_a_policy_s_name_is_that_policy(bootstrap: Bootstrap) -> None:
    (row,) = self_preference(both("sage_2 judge 1a2b3c4d", preferences("bb"), ("sage_1", "sage_2")), CARDS, bootstrap)
    assert (row["policy"], row["relation"], row["share"]) == ("sage_2", "same model", 1.0)


def test_a_judge_as_close_to_both_is_neutral(bootstrap: Bootstrap) -> None:
    pair = ("sage_1", "sage_2")
    votes = both("sage_2 judge 1a2b3c4d", preferences("bbba"), pair) + both(MIXTRAL, preferences("bbaa"), pair)
    (row,) = self_preference(votes, CARDS, bootstrap)
    assert (row["judge"], row["share"], row["neutral_share"]) == ("sage_2 judge 1a2b3c4d", 0.75, 0.5)


def test_kin_that_is_truly_better_is_no_self_preference(bootstrap: Bootstrap) -> None:
    said = preferences("a" * 80 + "b" * 20)
    votes = [*both(MIXTRAL, said, ("sage_0", "outside")), *both("gpt judge 0", said, ("sage_0", "outside"))]
    (row,) = self_preference(votes, CARDS, bootstrap)
    assert (row["share"], row["difference"]) == (0.8, 0)
    assert row["low"] < 0 < row["high"]


def test_offline_judges_are_nobody_s_kin(bootstrap: Bootstrap) -> None:
    votes = both("offline-rules-judge", preferences("ab"), ("sage_0", "sage_1"))
    assert self_preference(votes, CARDS, bootstrap) == []
