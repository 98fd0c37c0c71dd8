"""One rater at the arena: what comes next, what resumes, what can be taken back."""

from collections.abc import Callable

import pytest
from voting import table

from sage_dialog.studio.arena.ballots import Ballot, plan_ballots
from sage_dialog.studio.arena.session import NotAskedError, Session

NewSession = Callable[..., Session]


def vote(session: Session, choice: str, comment: str | None = None) -> str:
    asked = session.state()["ballot"]["id"]
    session.vote(asked, choice, comment)
    return asked


def test_ballots_come_in_order_and_end(new_session: NewSession, ballots: list[Ballot]) -> None:
    session = new_session()
    assert [vote(session, "first") for _ in ballots] == [ballot.id for ballot in ballots]
    assert session.state() == {"done": 18, "total": 18, "can_undo": True, "comment": None, "ballot": None}
    assert (session.given, session.left) == (18, 0)
    with pytest.raises(NotAskedError, match="not asked any more"):
        session.vote(ballots[0].id, "tie", None)


def test_another_process_goes_on_where_one_was_killed(new_session: NewSession, ballots: list[Ballot]) -> None:
    session = new_session()
    vote(session, "first")
    vote(session, "tie", "  ")
    again = new_session()
    state = again.state()
    assert (state["done"], state["total"], state["ballot"]["id"]) == (2, 18, ballots[2].id)
    assert again.given == 0


def test_raters_do_not_see_each_other_s_votes(new_session: NewSession) -> None:
    vote(new_session("anna"), "first")
    assert new_session("bert").state()["done"] == 0


def test_the_page_gets_what_was_heard_and_no_policy(new_session: NewSession, ballots: list[Ballot]) -> None:
    shown = new_session().state()
    text = repr(shown)
    assert "sage_" not in text and "BLOCK" not in text
    assert shown["ballot"]["opening"] == ballots[0].shown.first[0].text
    first, second = shown["ballot"]["dialogues"]
    assert [said["text"] for said in first] == [said.text for said in ballots[0].shown.first[1:]]
    assert [said["role"] for said in second] == ["assistant", "user", "assistant"]


def test_dialogues_that_begin_otherwise_are_shown_whole(new_session: NewSession, ballots: list[Ballot]) -> None:
    shown = ballots[0].shown
    odd = Ballot("test/0", "sage_0", "sage_1", type(shown)(shown.first, shown.second[1:]))
    state = new_session(asked=[odd]).state()["ballot"]
    assert state["opening"] is None and [len(side) for side in state["dialogues"]] == [4, 3]


def test_the_last_vote_is_taken_back_with_its_comment_and_asked_again(new_session: NewSession) -> None:
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
    with pytest.raises(NotAskedError, match="no vote to take back"):
        session.undo()


def test_votes_of_an_earlier_day_can_be_taken_back(new_session: NewSession) -> None:
    asked = vote(new_session(), "first")
    session = new_session()
    session.undo()
    assert session.state()["ballot"]["id"] == asked
    assert session.given == 0


def test_more_situations_ask_only_what_is_new(new_session: NewSession, rollouts) -> None:
    pair = [("sage_0", "sage_1")]
    session = new_session(asked=plan_ballots(rollouts, pair, 4, "anna", 7))
    asked = {vote(session, "first") for _ in range(4)}
    more = new_session(asked=plan_ballots(rollouts, pair, 9, "anna", 7))
    assert more.state()["done"] == 4
    assert not asked & {vote(more, "tie") for _ in range(5)} and more.left == 0


def test_what_is_taken_back_is_asked_at_once_where_other_pairs_came_before(new_session: NewSession, rollouts) -> None:
    pair = [("sage_0", "sage_1")]
    few, more = (plan_ballots(rollouts, pair, number, "anna", 7) for number in (1, 9))
    assert few[0].id != more[0].id
    asked = vote(new_session(asked=few), "first")
    session = new_session(asked=more)
    session.undo()
    assert session.state()["ballot"]["id"] == asked


def test_votes_on_other_pairs_are_neither_shown_nor_taken_back(new_session: NewSession, rollouts) -> None:
    vote(new_session(asked=plan_ballots(rollouts, [("sage_0", "sage_1")], 4, "anna", 7)), "first")
    other = new_session(asked=plan_ballots(rollouts, [("sage_1", "sage_2")], 4, "anna", 7)).state()
    assert (other["done"], other["total"], other["can_undo"]) == (0, 4, False)


def test_a_dialogue_that_has_changed_is_asked_again(new_session: NewSession, rollouts) -> None:
    pair = [("sage_0", "sage_1")]
    vote(new_session(asked=plan_ballots(rollouts, pair, 1, "anna", 7)), "first")
    rollouts["sage_1"] = table("sage_1", 9, "another voice")
    assert new_session(asked=plan_ballots(rollouts, pair, 1, "anna", 7)).state()["done"] == 0


def test_two_windows_cannot_vote_on_the_same(new_session: NewSession) -> None:
    session = new_session()
    seen_by_both = session.state()["ballot"]["id"]
    session.vote(seen_by_both, "first", None)
    with pytest.raises(NotAskedError):
        session.vote(seen_by_both, "second", None)
    assert session.state()["done"] == 1
