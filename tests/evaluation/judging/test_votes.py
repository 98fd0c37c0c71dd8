"""Each pair is read in both orders, and by default only agreement decides."""

from collections.abc import Callable
from typing import Any

import pytest
from judging_tables import Row, letter_votes, table_rows, votes_table
from scipy.stats import beta

from sage_dialog import schemas
from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.judging.votes import collect_votes, outcomes, win_rates
from sage_dialog.roles.protocols import Comparison, Verdict

Rollouts = Callable[..., DataFrame]


def votes_of(*by_order: tuple[str, str]) -> list[Row]:
    """One situation for each (vote in order ab, vote in order ba)."""
    return [
        {"situation_id": f"s{place}", "policy_a": "old", "policy_b": "new", "order": order, "judge": "j", "vote": vote}
        for place, pair in enumerate(by_order)
        for order, vote in zip(("ab", "ba"), pair, strict=True)
    ]


class PrefersFirst:
    name = "says-first"

    def judge(self, comparisons: list[Comparison]) -> list[Verdict]:
        return [Verdict("first", "it came first") for _ in comparisons]


def test_each_pair_is_read_in_both_orders(rollouts_of: Rollouts, prefers_longer: Any) -> None:
    rollouts = rollouts_of(
        old={"s1": ["a b c"], "s2": ["a"], "s3": ["a b"]}, new={"s1": ["a"], "s2": ["a b c"], "s3": ["b a"]}
    )
    votes = table_rows(collect_votes(rollouts, [("old", "new")], prefers_longer), schemas.JUDGE_VOTES)
    assert [(vote["situation_id"], vote["order"], vote["vote"]) for vote in votes] == [
        ("s1", "ab", "a"),
        ("s1", "ba", "a"),
        ("s2", "ab", "b"),
        ("s2", "ba", "b"),
        ("s3", "ab", "tie"),
        ("s3", "ba", "tie"),
    ]
    assert votes[0]["raw_response"] == "3 words against 1" and votes[1]["raw_response"] == "1 words against 3"


def test_a_judge_that_goes_by_position_decides_nothing(rollouts_of: Rollouts) -> None:
    rollouts = rollouts_of(old={"s1": ["old says this"]}, new={"s1": ["new says this"]})
    votes = collect_votes(rollouts, [("old", "new")], PrefersFirst())
    assert votes["vote"].tolist() == ["a", "b"]
    (judged,) = to_rows(outcomes(votes))
    assert (judged["judge"], judged["policy_a"], judged["policy_b"]) == ("says-first", "old", "new")
    assert (judged["situation_id"], judged["outcome"]) == ("s1", "tie")


def test_a_judge_with_too_few_verdicts_is_an_error(rollouts_of: Rollouts) -> None:
    class TooFew(PrefersFirst):
        def judge(self, comparisons: list[Comparison]) -> list[Verdict]:
            return list(super().judge(comparisons))[1:]

    rollouts = rollouts_of(old={"s1": ["a"]}, new={"s1": ["a"]})
    with pytest.raises(ValueError, match="shorter"):
        collect_votes(rollouts, [("old", "new")], TooFew())


def test_the_judge_reads_no_blocks(rollouts_of: Rollouts) -> None:
    block = (
        "{u_motivation: sharing, u_emotion: sad, u_topic: []} {a_motivation: comfort, a_emotion: calm, a_topic: []} "
    )
    compared: list[Comparison] = []

    class Recording(PrefersFirst):
        def judge(self, comparisons: list[Comparison]) -> list[Verdict]:
            compared.extend(comparisons)
            return super().judge(comparisons)

    rollouts = rollouts_of(old={"s1": [block + "Oh no."]}, new={"s1": ["Oh no."]})
    collect_votes(rollouts, [("old", "new")], Recording())
    assert compared[0].first == compared[0].second
    assert [message.text for message in compared[0].first] == ["This is s1.", "Oh no.", "Answer 0 in s1."]


@pytest.mark.parametrize(
    ("ab", "ba", "outcome"),
    [
        ("a", "a", "a"),
        ("b", "b", "b"),
        ("a", "b", "tie"),
        ("a", "tie", "tie"),
        ("tie", "tie", "tie"),
        ("unreadable", "b", "tie"),
        ("unreadable", "unreadable", "tie"),
    ],
)
def test_only_agreement_wins(ab: str, ba: str, outcome: str) -> None:
    (judged,) = to_rows(outcomes(votes_table(votes_of((ab, ba)))))
    assert (judged["judge"], judged["policy_a"], judged["policy_b"]) == ("j", "old", "new")
    assert (judged["situation_id"], judged["ab"], judged["ba"], judged["outcome"]) == ("s0", ab, ba, outcome)


@pytest.mark.parametrize(
    ("ab", "ba", "by_half", "by_first"),
    [
        ("a", "a", "a", "a"),
        ("b", "b", "b", "b"),
        ("a", "b", "tie", "a"),
        ("a", "tie", "a", "a"),
        ("tie", "b", "b", "tie"),
        ("tie", "tie", "tie", "tie"),
        ("unreadable", "b", "b", "tie"),
        ("b", "unreadable", "b", "b"),
        ("unreadable", "tie", "tie", "tie"),
        ("unreadable", "unreadable", "tie", "tie"),
    ],
)
def test_other_rules_decide_other_votes(ab: str, ba: str, by_half: str, by_first: str) -> None:
    rules: tuple[OutcomeRule, ...] = ("half", "first_order")
    found = [outcomes(votes_table(votes_of((ab, ba))), rule)["outcome"].tolist() for rule in rules]
    assert found == [[by_half], [by_first]]


@pytest.mark.parametrize(
    ("ab", "ba", "kind"),
    [
        ("a", "a", "win"),
        ("b", "b", "win"),
        ("tie", "tie", "tie"),
        ("a", "b", "inconsistent"),
        ("tie", "b", "inconsistent"),
        ("unreadable", "b", "unreadable"),
        ("unreadable", "unreadable", "unreadable"),
    ],
)
def test_the_kind_of_two_votes(ab: str, ba: str, kind: str) -> None:
    assert outcomes(votes_table(votes_of((ab, ba), (ba, ab))))["kind"].tolist() == [kind, kind]


def test_unreadable_votes_are_kept(rollouts_of: Rollouts) -> None:
    class Unreadable(PrefersFirst):
        def judge(self, comparisons: list[Comparison]) -> list[Verdict]:
            return [Verdict("unreadable", "Dialog Q is better") for _ in comparisons]

    rollouts = rollouts_of(old={"s1": ["a"]}, new={"s1": ["a"]})
    votes = collect_votes(rollouts, [("old", "new")], Unreadable())
    assert votes[["vote", "raw_response"]].values.tolist() == [["unreadable", "Dialog Q is better"]] * 2


def rates(votes: list[Row], rule: OutcomeRule = "agreement") -> list[Row]:
    return table_rows(win_rates(votes_table(votes), 0.95, rule), schemas.WIN_RATES)


def test_win_rates_by_hand() -> None:
    votes = votes_of(("b", "b"), ("b", "b"), ("b", "b"), ("a", "a"), ("a", "b"), ("tie", "tie"), ("b", "unreadable"))
    (row,) = rates(votes)
    assert (row["n"], row["wins_a"], row["ties"], row["wins_b"], row["win_rate_b"]) == (7, 1, 3, 3, 0.75)
    assert (row["both_say_tie"], row["inconsistent"], row["unreadable"]) == (1, 1, 1)
    # Of four flips, 3:1 or further from even: (1 + 4 + 4 + 1) / 16.
    assert row["p_value"] == row["p_adjusted"] == pytest.approx(10 / 16)
    assert (row["low"], row["high"]) == pytest.approx(tuple(beta(3.5, 1.5).ppf([0.025, 0.975])))


def test_equal_counts_have_equal_intervals_of_the_exact_beta_distribution() -> None:
    """The names of judge and policies make no difference; a share of 0 or 1 is in its interval."""
    letters = ["b" * 37 + "a" * 37 + "t" * 9, "a" * 5, "b" * 5, "b"]
    judges, pairs = ("j", "another judge"), [(f"policy {n}", f"other {n}") for n in range(len(letters))]
    by_pair = list(zip(letters, pairs, strict=True))
    rows = rates([vote for judge in judges for of, pair in by_pair for vote in letter_votes(judge, of, pair)])
    intervals = [(row["low"], row["high"]) for row in rows]
    assert intervals[:4] == intervals[4:]
    assert intervals[0] == pytest.approx(tuple(beta(37.5, 37.5).ppf([0.025, 0.975])), abs=1e-12)
    assert intervals[1] == (0, pytest.approx(beta(0.5, 5.5).ppf(0.975)))
    assert intervals[2] == (pytest.approx(beta(5.5, 0.5).ppf(0.025)), 1)
    assert intervals[3] == (pytest.approx(beta(1.5, 0.5).ppf(0.025)), 1)


def test_another_rule_counts_other_wins_of_the_same_kinds() -> None:
    votes = votes_of(("b", "b"), ("b", "tie"), ("b", "unreadable"), ("b", "a"))
    by_rule = {rule: rates(votes, rule)[0] for rule in ("agreement", "half", "first_order")}
    assert {rule: (row["rule"], row["wins_b"]) for rule, row in by_rule.items()} == {
        "agreement": ("agreement", 1),
        "half": ("half", 3),
        "first_order": ("first_order", 4),
    }
    assert {(row["both_say_tie"], row["inconsistent"], row["unreadable"]) for row in by_rule.values()} == {(0, 2, 1)}


def test_p_values_are_adjusted_for_each_judge() -> None:
    strong, weak = votes_of(*[("b", "b")] * 6), votes_of(*[("b", "b")] * 5)
    weak = [{**vote, "policy_b": "newer"} for vote in weak]
    other_judge = [{**vote, "judge": "k"} for vote in strong]
    rows = rates([*strong, *weak, *other_judge])
    # 2 / 2^6 and 2 / 2^5; the smaller one of two times two.
    assert [row["p_value"] for row in rows] == pytest.approx([2 / 64, 2 / 32, 2 / 64])
    assert [row["p_adjusted"] for row in rows] == pytest.approx([4 / 64, 4 / 64, 2 / 64])


@pytest.mark.parametrize("answers", [("tie", "tie"), ("a", "b"), ("unreadable", "unreadable")])
def test_nothing_decided_has_no_rate(answers: tuple[str, str]) -> None:
    (row,) = rates(votes_of(answers, answers))
    assert (row["win_rate_b"], row["low"], row["high"], row["p_value"], row["p_adjusted"]) == (None, None, None, 1, 1)
    assert row["ties"] == row["both_say_tie"] + row["inconsistent"] + row["unreadable"] == 2


def test_a_situation_that_one_policy_did_not_play_is_named(rollouts_of: Rollouts, prefers_longer: Any) -> None:
    rollouts = rollouts_of(old={"s1": ["a"], "s2": ["a"]}, new={"s1": ["a"]})
    with pytest.raises(ValueError, match=r"'s2' was played by old but not by new"):
        collect_votes(rollouts, [("old", "new")], prefers_longer)
    with pytest.raises(ValueError, match=r"'s2' was played by old but not by new"):
        collect_votes(rollouts, [("new", "old")], prefers_longer)


def test_a_policy_that_was_not_rolled_out_is_named(rollouts_of: Rollouts, prefers_longer: Any) -> None:
    with pytest.raises(ValueError, match=r"'sage_7' is compared but was not rolled out.*may name old"):
        collect_votes(rollouts_of(old={"s1": ["a"]}), [("old", "sage_7")], prefers_longer)


def test_a_missing_order_is_named() -> None:
    with pytest.raises(ValueError, match=r"'s0' of old against new \(judge j\) was not judged in order ba"):
        outcomes(votes_table(votes_of(("a", "a"))[:1]))


def test_an_order_judged_twice_is_named() -> None:
    votes = votes_of(("a", "a"))
    with pytest.raises(ValueError, match=r"'s0' of old against new \(judge j\) was judged twice as ab"):
        outcomes(votes_table([*votes, votes[0]]))
