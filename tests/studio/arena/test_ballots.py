"""What a person is asked: the same for all raters, both sides equally often, by seed and names alone."""

from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pytest
from voting import PAIRS, table

from sage_dialog import schemas
from sage_dialog.dialogue import Message
from sage_dialog.studio.arena.ballots import dialogue_digest, plan_ballots

Rollouts = dict[str, pa.Table]


def asked(ballots) -> list[tuple[str, frozenset[str]]]:
    return [(ballot.situation_id, frozenset((ballot.first, ballot.second))) for ballot in ballots]


def sides(ballots) -> list[str]:
    return [ballot.first for ballot in ballots]


def test_every_pair_is_asked_on_every_situation_once(ballots) -> None:
    assert Counter(asked(ballots)) == Counter((f"test/{n}", frozenset(pair)) for n in range(9) for pair in PAIRS)
    assert len({ballot.id for ballot in ballots}) == 18


def test_raters_see_the_same_in_the_same_order_with_sides_of_their_own(rollouts: Rollouts, ballots) -> None:
    others = [plan_ballots(rollouts, PAIRS, None, rater, 7) for rater in ("bert", "cleo", "dora")]
    assert all(asked(other) == asked(ballots) for other in others)
    assert len({tuple(sides(of)) for of in (ballots, *others)}) == 4


def test_another_seed_is_another_order(rollouts: Rollouts, ballots) -> None:
    assert asked(plan_ballots(rollouts, PAIRS, None, "anna", 8)) != asked(ballots)


def test_whenever_a_rater_stops_pairs_and_sides_are_even(rollouts: Rollouts) -> None:
    for rater in ("anna", "bert", "cleo"):
        ballots = plan_ballots(rollouts, PAIRS, None, rater, 7)
        for given in range(len(ballots) + 1):
            by_pair = [[of for of in ballots[:given] if {of.first, of.second} == set(pair)] for pair in PAIRS]
            assert abs(len(by_pair[0]) - len(by_pair[1])) <= 1
            for pair, of_pair in zip(PAIRS, by_pair, strict=True):
                assert abs(2 * sides(of_pair).count(pair[0]) - len(of_pair)) <= 1


def test_sides_are_no_pattern_to_be_learned() -> None:
    many = {policy: table(policy, 200) for policy in ("sage_0", "sage_1")}
    shown = sides(plan_ballots(many, PAIRS[:1], None, "anna", 7))
    changes = sum(one != other for one, other in pairwise(shown))
    assert 120 < changes < 180  # by blocks of two, three changes in four places


def test_neither_the_order_of_rows_nor_that_within_a_pair_counts(rollouts: Rollouts, ballots) -> None:
    turned = {policy: rows.take(list(range(rows.num_rows))[::-1]) for policy, rows in rollouts.items()}
    assert plan_ballots(turned, [pair[::-1] for pair in PAIRS], None, "anna", 7) == ballots


def test_a_pair_is_judged_as_it_was_asked_of_others(rollouts: Rollouts, ballots) -> None:
    """What else is compared makes no difference to which situations come first, and how."""
    alone = plan_ballots(rollouts, PAIRS[1:], None, "anna", 7)
    assert alone == [ballot for ballot in ballots if "sage_2" in (ballot.first, ballot.second)]


def test_all_pairs_take_the_same_situations_where_some_are_left_out(rollouts: Rollouts) -> None:
    few = plan_ballots(rollouts, PAIRS, 4, "anna", 7)
    chosen = [{ballot.situation_id for ballot in few if "sage_0" in (ballot.first, ballot.second)}]
    chosen += [{ballot.situation_id for ballot in few if "sage_2" in (ballot.first, ballot.second)}]
    assert len(few) == 8 and chosen[0] == chosen[1]
    more = plan_ballots(rollouts, PAIRS, 6, "anna", 7)
    assert {ballot.id for ballot in few} < {ballot.id for ballot in more}


def test_a_ballot_shows_what_was_heard_of_the_policies_it_names(ballots) -> None:
    for ballot in ballots:
        shown = (ballot.shown.first, ballot.shown.second)
        for policy, dialogue in zip((ballot.first, ballot.second), shown, strict=True):
            assert [said.role for said in dialogue] == ["user", "assistant"] * 2
            assert dialogue[1].text.startswith(f"voice {policy[-1]} 1")
            assert "BLOCK" not in "".join(said.text for said in dialogue)


def test_a_ballot_is_another_when_a_word_is(rollouts: Rollouts, ballots) -> None:
    changed = plan_ballots({**rollouts, "sage_2": table("sage_2", 9, "voice two")}, PAIRS, None, "anna", 7)
    same = {ballot.id for ballot in ballots} & {ballot.id for ballot in changed}
    assert len(same) == 9


def test_a_digest_is_of_every_word_and_who_says_it() -> None:
    one = (Message("user", "a"), Message("assistant", "b"))
    others = [
        one[::-1],
        one[:1],
        (Message("user", "a"), Message("user", "b")),
        (Message("user", "ab"), Message("assistant", "")),
    ]
    assert len({dialogue_digest(dialogue) for dialogue in (one, *others)}) == 5


def test_situations_that_one_alone_played_are_named(rollouts: Rollouts) -> None:
    with pytest.raises(ValueError, match="'test/8' was played by sage_0 but not by sage_1"):
        plan_ballots({**rollouts, "sage_1": table("sage_1", 8)}, PAIRS, None, "anna", 7)
    with pytest.raises(ValueError, match="policy 'sage_2' is compared but was not rolled out"):
        plan_ballots({policy: rollouts[policy] for policy in ("sage_0", "sage_1")}, PAIRS, None, "anna", 7)
    empty = dict.fromkeys(rollouts, schemas.TRAJECTORIES.empty_table())
    assert plan_ballots(empty, PAIRS, None, "anna", 7) == []
