"""A session of one rater: order of ballots, resume and undo."""

from collections.abc import Callable

import pytest
from voting import POLICIES, rollouts_of

from sage_dialog.studio.arena.ballots import Ballot, plan_ballots
from sage_dialog.studio.arena.session import BallotError, Session

NewSession = Callable[..., Session]


def vote(session: Session, choice: str, comment: str | None = None) -> str:
    current = session.state()["ballot"]["id"]
    session.vote(current, choice, comment)
    return current


def test_ballots_come_in_order_and_end(new_session: NewSession, ballots: list[Ballot]) -> None:
    session = new_session()
    assert [vote(session, "first") for _ in ballots] == [ballot.id for ballot in ballots]
    assert session.state() == {"done": 18, "total": 18, "can_undo": True, "comment": None, "ballot": None}
    assert (session.given, session.left) == (18, 0)
    with pytest.raises(BallotError, match="no longer the current one"):
        session.vote(ballots[0].id, "tie", None)


def test_another_process_continues_after_a_kill(new_session: NewSession, ballots: list[Ballot]) -> None:
    session = new_session()
    vote(session, "first")
    vote(session, "tie", "  ")
    restarted = new_session()
    state = restarted.state()
    assert (state["done"], state["total"], state["ballot"]["id"]) == (2, 18, ballots[2].id)
    assert restarted.given == 0


def test_raters_do_not_see_each_other_s_votes(new_session: NewSession) -> None:
    vote(new_session("anna"), "first")
    assert new_session("bert").state()["done"] == 0


def test_the_page_gets_texts_without_blocks_and_policies(new_session: NewSession, ballots: list[Ballot]) -> None:
    state = new_session().state()
    text = repr(state)
    assert "sage_" not in text and "BLOCK" not in text
    assert state["ballot"]["opening"] == ballots[0].comparison.first[0].text
    first, second = state["ballot"]["dialogues"]
    assert [message["text"] for message in first] == [message.text for message in ballots[0].comparison.first[1:]]
    assert [message["role"] for message in second] == ["assistant", "user", "assistant"]


def test_dialogues_without_a_shared_opening_are_shown_whole(new_session: NewSession, ballots: list[Ballot]) -> None:
    comparison = ballots[0].comparison
    odd = Ballot("test/0", "sage_0", "sage_1", type(comparison)(comparison.first, comparison.second[1:]))
    state = new_session(ballots=[odd]).state()["ballot"]
    assert state["opening"] is None and [len(side) for side in state["dialogues"]] == [4, 3]


def test_undo_returns_to_the_last_ballot_with_its_comment(new_session: NewSession) -> None:
    session = new_session()
    vote(session, "first")
    second = vote(session, "second", "a slip")
    session.undo()
    state = session.state()
    assert (state["ballot"]["id"], state["comment"], state["done"]) == (second, "a slip", 1)
    vote(session, "tie", "mended")
    assert session.state()["comment"] is None
    session.undo()
    session.undo()
    assert session.state()["done"] == 0 and not session.state()["can_undo"]
    with pytest.raises(BallotError, match="no vote to undo"):
        session.undo()


def test_votes_of_an_earlier_session_can_be_undone(new_session: NewSession) -> None:
    current = vote(new_session(), "first")
    session = new_session()
    session.undo()
    assert session.state()["ballot"]["id"] == current
    assert session.given == 0


def test_more_situations_add_only_new_ballots(new_session: NewSession, rollouts) -> None:
    pair = [("sage_0", "sage_1")]
    session = new_session(ballots=plan_ballots(rollouts, pair, 4, "anna", 7))
    current = {vote(session, "first") for _ in range(4)}
    more = new_session(ballots=plan_ballots(rollouts, pair, 9, "anna", 7))
    assert more.state()["done"] == 4
    assert not current & {vote(more, "tie") for _ in range(5)} and more.left == 0


def test_an_undone_ballot_comes_before_earlier_ones(new_session: NewSession, rollouts) -> None:
    pair = [("sage_0", "sage_1")]
    few, more = (plan_ballots(rollouts, pair, number, "anna", 7) for number in (1, 9))
    assert few[0].id != more[0].id
    current = vote(new_session(ballots=few), "first")
    session = new_session(ballots=more)
    session.undo()
    assert session.state()["ballot"]["id"] == current


def test_votes_on_other_pairs_are_neither_counted_nor_undone(new_session: NewSession, rollouts) -> None:
    vote(new_session(ballots=plan_ballots(rollouts, [("sage_0", "sage_1")], 4, "anna", 7)), "first")
    other = new_session(ballots=plan_ballots(rollouts, [("sage_1", "sage_2")], 4, "anna", 7)).state()
    assert (other["done"], other["total"], other["can_undo"]) == (0, 4, False)


def test_a_changed_dialogue_has_a_new_ballot(new_session: NewSession, rollouts) -> None:
    pair = [("sage_0", "sage_1")]
    vote(new_session(ballots=plan_ballots(rollouts, pair, 1, "anna", 7)), "first")
    changed = rollouts_of(9, *POLICIES, sage_1="another voice")
    assert new_session(ballots=plan_ballots(changed, pair, 1, "anna", 7)).state()["done"] == 0


def test_two_windows_cannot_vote_on_the_same_ballot(new_session: NewSession) -> None:
    session = new_session()
    seen_by_both = session.state()["ballot"]["id"]
    session.vote(seen_by_both, "first", None)
    with pytest.raises(BallotError):
        session.vote(seen_by_both, "second", None)
    assert session.state()["done"] == 1
