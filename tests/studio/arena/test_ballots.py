"""Ballots are the same for all raters, balance sides and pairs, and depend on seed and names only."""

from collections import Counter
from itertools import pairwise

import pytest
from voting import PAIRS, POLICIES, rollouts_of

from sage_dialog.core.tables import DataFrame
from sage_dialog.dialogue import Message
from sage_dialog.studio.arena.ballots import dialogue_digest, plan_ballots


def comparisons(ballots) -> list[tuple[str, frozenset[str]]]:
    return [(ballot.situation_id, frozenset((ballot.first, ballot.second))) for ballot in ballots]


def first_policies(ballots) -> list[str]:
    return [ballot.first for ballot in ballots]


def test_every_pair_is_compared_on_every_situation_once(ballots) -> None:
    assert Counter(comparisons(ballots)) == Counter((f"test/{n}", frozenset(pair)) for n in range(9) for pair in PAIRS)
    assert len({ballot.id for ballot in ballots}) == 18


def test_raters_get_the_same_ballots_in_the_same_order_with_their_own_sides(rollouts: DataFrame, ballots) -> None:
    others = [plan_ballots(rollouts, PAIRS, None, rater, 7) for rater in ("bert", "cleo", "dora")]
    assert all(comparisons(other) == comparisons(ballots) for other in others)
    assert len({tuple(first_policies(plan)) for plan in (ballots, *others)}) == 4


def test_another_seed_is_another_order(rollouts: DataFrame, ballots) -> None:
    assert comparisons(plan_ballots(rollouts, PAIRS, None, "anna", 8)) != comparisons(ballots)


def test_pairs_and_sides_are_balanced_after_any_number_of_votes(rollouts: DataFrame) -> None:
    for rater in ("anna", "bert", "cleo"):
        ballots = plan_ballots(rollouts, PAIRS, None, rater, 7)
        for count in range(len(ballots) + 1):
            by_pair = [
                [ballot for ballot in ballots[:count] if {ballot.first, ballot.second} == set(pair)] for pair in PAIRS
            ]
            assert abs(len(by_pair[0]) - len(by_pair[1])) <= 1
            for pair, of_pair in zip(PAIRS, by_pair, strict=True):
                assert abs(2 * first_policies(of_pair).count(pair[0]) - len(of_pair)) <= 1


def test_sides_have_no_pattern() -> None:
    many = rollouts_of(200, "sage_0", "sage_1")
    sides = first_policies(plan_ballots(many, PAIRS[:1], None, "anna", 7))
    changes = sum(one != other for one, other in pairwise(sides))
    assert 120 < changes < 180  # by blocks of two, three changes in four places


def test_the_order_of_rows_and_within_a_pair_makes_no_difference(rollouts: DataFrame, ballots) -> None:
    assert plan_ballots(rollouts[::-1], [pair[::-1] for pair in PAIRS], None, "anna", 7) == ballots


def test_other_pairs_make_no_difference(rollouts: DataFrame, ballots) -> None:
    """Order and sides of a pair's situations are independent of the other pairs."""
    single_pair = plan_ballots(rollouts, PAIRS[1:], None, "anna", 7)
    assert single_pair == [ballot for ballot in ballots if "sage_2" in (ballot.first, ballot.second)]


def test_a_limit_takes_the_same_situations_for_all_pairs(rollouts: DataFrame) -> None:
    few = plan_ballots(rollouts, PAIRS, 4, "anna", 7)
    chosen = [{ballot.situation_id for ballot in few if "sage_0" in (ballot.first, ballot.second)}]
    chosen += [{ballot.situation_id for ballot in few if "sage_2" in (ballot.first, ballot.second)}]
    assert len(few) == 8 and chosen[0] == chosen[1]
    more = plan_ballots(rollouts, PAIRS, 6, "anna", 7)
    assert {ballot.id for ballot in few} < {ballot.id for ballot in more}


def test_a_ballot_holds_the_dialogues_of_its_policies_without_blocks(ballots) -> None:
    for ballot in ballots:
        dialogues = (ballot.comparison.first, ballot.comparison.second)
        for policy, dialogue in zip((ballot.first, ballot.second), dialogues, strict=True):
            assert [message.role for message in dialogue] == ["user", "assistant"] * 2
            assert dialogue[1].text.startswith(f"voice {policy[-1]} 1")
            assert "BLOCK" not in "".join(message.text for message in dialogue)


def test_the_id_of_a_ballot_changes_with_the_text(rollouts: DataFrame, ballots) -> None:
    changed = plan_ballots(rollouts_of(9, *POLICIES, sage_2="voice two"), PAIRS, None, "anna", 7)
    same = {ballot.id for ballot in ballots} & {ballot.id for ballot in changed}
    assert len(same) == 9


def test_a_digest_covers_texts_and_roles() -> None:
    dialogue = (Message("user", "a"), Message("assistant", "b"))
    others = [
        dialogue[::-1],
        dialogue[:1],
        (Message("user", "a"), Message("user", "b")),
        (Message("user", "ab"), Message("assistant", "")),
    ]
    assert len({dialogue_digest(messages) for messages in (dialogue, *others)}) == 5


def test_missing_situations_and_policies_are_named(rollouts: DataFrame) -> None:
    with pytest.raises(ValueError, match="'test/8' was played by sage_0 but not by sage_1"):
        incomplete = (rollouts["policy"] == "sage_1") & (rollouts["situation_id"] == "test/8")
        plan_ballots(rollouts[~incomplete], PAIRS, None, "anna", 7)
    with pytest.raises(ValueError, match="policy 'sage_2' is compared but was not rolled out"):
        plan_ballots(rollouts_of(9, "sage_0", "sage_1"), PAIRS, None, "anna", 7)
