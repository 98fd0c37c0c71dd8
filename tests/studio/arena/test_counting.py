"""Valid and rejected votes, and their rows in `judge_votes`."""

from collections.abc import Mapping, Sequence
from typing import Any

from voting import PAIRS, POLICIES, rollouts_of, vote_on

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.schemas import JUDGE_VOTES, VOTE_REJECTS
from sage_dialog.studio.arena import counting
from sage_dialog.studio.arena.ballots import plan_ballots
from sage_dialog.studio.arena.vote_file import HumanVote

Rows = list[dict[str, Any]]


def count_votes(
    votes: Mapping[str, Sequence[HumanVote]], rollouts: DataFrame, pairs: Sequence[tuple[str, str]]
) -> tuple[Rows, Rows]:
    counted, rejects = counting.count_votes(votes, rollouts, pairs)
    assert (list(counted), list(rejects)) == (JUDGE_VOTES.names, VOTE_REJECTS.names)
    return to_rows(counted), to_rows(rejects)


def test_a_vote_names_the_policy_on_either_side(rollouts: DataFrame, ballots) -> None:
    votes = [vote_on(ballot, "first" if "1" in ballot.first else "second", "why") for ballot in ballots]
    counted, rejects = count_votes({"anna": votes}, rollouts, PAIRS)
    assert rejects == []
    assert {row["order"] for row in counted} == {"ab", "ba"}
    for row in counted:
        assert row["judge"] == "human:anna" and row["raw_response"] == "why"
        assert row["vote"] == ("b" if row["policy_b"] == "sage_1" else "a")
    first_of = {(ballot.situation_id, frozenset((ballot.first, ballot.second))): ballot.first for ballot in ballots}
    for row in counted:
        first = first_of[row["situation_id"], frozenset((row["policy_a"], row["policy_b"]))]
        assert first == (row["policy_a"] if row["order"] == "ab" else row["policy_b"])
    assert len(counted) == 18


def test_rows_are_sorted_by_rater_pair_and_situation(rollouts: DataFrame, ballots) -> None:
    votes = [vote_on(ballot, "tie") for ballot in ballots]
    rows, _ = count_votes({"anna": votes, "bert": votes[::-1]}, rollouts, PAIRS)
    assert [(row["judge"], row["policy_a"], row["policy_b"], row["situation_id"]) for row in rows] == [
        (f"human:{rater}", *pair, f"test/{n}") for rater in ("anna", "bert") for pair in PAIRS for n in range(9)
    ]
    assert {row["vote"] for row in rows} == {"tie"}


def test_policy_a_of_a_pair_that_is_not_configured_is_the_first_of_the_rollouts(rollouts: DataFrame) -> None:
    ballots = plan_ballots(rollouts, [("sage_2", "sage_0")], None, "anna", 7)
    counted, _ = count_votes({"anna": [vote_on(ballot, "first") for ballot in ballots]}, rollouts, PAIRS)
    assert {(row["policy_a"], row["policy_b"]) for row in counted} == {("sage_0", "sage_2")}
    reversed_pair, _ = count_votes({"anna": [vote_on(ballots[0], "first")]}, rollouts, [("sage_2", "sage_0")])
    assert reversed_pair[0]["policy_a"] == "sage_2"
    assert (reversed_pair[0]["vote"] == "a") == (ballots[0].first == "sage_2")


def test_votes_on_changed_dialogues_are_rejected(ballots) -> None:
    votes = [vote_on(ballot, "first", "a reason") for ballot in ballots]
    rollouts = rollouts_of(9, *POLICIES, sage_2="another voice")
    counted, rejects = count_votes({"anna": votes}, rollouts, PAIRS)
    assert {(row["policy_a"], row["policy_b"]) for row in counted} == {PAIRS[0]} and len(counted) == 9
    assert [row["situation_id"] for row in rejects] == [
        ballot.situation_id for ballot in ballots if "sage_2" in (ballot.first, ballot.second)
    ]
    assert {(row["reason"], row["raw_response"]) for row in rejects} == {("the dialogue has changed", "a reason")}
    assert len(rejects) == 9


def test_votes_on_missing_dialogues_are_rejected(ballots) -> None:
    votes = [vote_on(ballot, "first") for ballot in ballots]
    counted, rejects = count_votes({"anna": votes}, rollouts_of(5, "sage_0", "sage_1"), PAIRS)
    assert (len(counted), len(rejects)) == (5, 13)
    assert {row["reason"] for row in rejects} == {"no such dialogue"}


def test_no_votes_are_no_rows(rollouts: DataFrame) -> None:
    assert count_votes({}, rollouts, PAIRS) == ([], [])
    assert count_votes({"anna": []}, rollouts, PAIRS) == ([], [])


def test_a_vote_on_a_chat_is_set_apart(rollouts: DataFrame, ballots) -> None:
    """Win rates are of the held-out situations that all policies played."""
    votes = [vote_on(ballot, "first") for ballot in ballots[:2]]
    votes[1] = votes[1].model_copy(update={"situation_id": f"{counting.CHAT}0123456789ab"})
    counted, rejects = count_votes({"anna": votes}, rollouts, PAIRS)
    assert len(counted) == 1 and [row["reason"] for row in rejects] == [counting.CHATTED]
