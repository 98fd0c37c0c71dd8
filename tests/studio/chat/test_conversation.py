"""What a conversation keeps, gives up, and shows to the policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from jinja2 import TemplateError

from sage_dialog.config import Steering
from sage_dialog.inference.candidates import parse_candidate
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.studio.chat.conversation import Conversation

Talk = Callable[..., Conversation]

CHAINED = "{u_motivation: a, u_emotion: b, u_topic: []} {a_motivation: c, a_emotion: null, a_topic: []} Hm {so}."


def test_the_policy_sees_its_preamble_the_persons_words_and_its_own_blocks(talk: Talk) -> None:
    with_policy = talk()
    first = with_policy.say("I moved.")
    assert first.message.text == "turn 0 draw 0 sample 0" and first.text.startswith("{u_motivation: sharing, ")
    with_policy.say("It is cold here.")
    _, prompt, _ = with_policy.engine.asked[-1]
    assert prompt.messages == (
        {"role": "system", "content": "You listen."},
        {"role": "user", "content": "I moved."},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "It is cold here."},
    )
    assert with_policy.messages()[:4] == prompt.messages and len(with_policy.messages()) == 5


def test_every_drawing_of_a_turn_has_a_name_of_its_own(talk: Talk) -> None:
    with_policy = talk()
    with_policy.say("One.")
    with_policy.say("Two.")
    assert with_policy.retry().message.text == "turn 1 draw 1 sample 0"
    assert [reply.message.text for reply in with_policy.draw_candidates(3)] == [
        f"turn 1 draw 2 sample {j}" for j in range(3)
    ]
    assert with_policy.retry().message.text == "turn 1 draw 3 sample 0"
    assert len(with_policy.turns) == 2
    items = [prompt.item for _, prompt, _ in with_policy.engine.asked]
    assert len(set(items)) == len(items) == 5
    assert all(prompt.messages[-1]["content"] == "Two." for _, prompt, _ in with_policy.engine.asked[1:])


def test_the_same_lines_draw_the_same_whatever_was_taken_back(talk: Talk) -> None:
    with_policy = talk()
    first = with_policy.say("One.")
    with_policy.retry()
    assert with_policy.undo().user == "One."
    assert with_policy.say("One.") == first
    with_policy.clear()
    assert with_policy.messages() == ({"role": "system", "content": "You listen."},)
    assert with_policy.say("One.") == first


def test_a_candidate_counts_once_it_is_picked(talk: Talk) -> None:
    with_policy = talk()
    kept = with_policy.say("One.")
    with_policy.steer(Steering(boosts={"a_motivation": {"humor": 4.0}}))
    with_policy.draw_candidates(4)
    assert with_policy.last.reply == kept and not with_policy.last.steering
    with_policy.steer(Steering())
    assert with_policy.pick(3).message.text == "turn 0 draw 1 sample 2"
    assert with_policy.last.steering.boosts == {"a_motivation": {"humor": 4.0}}  # under which it was drawn
    assert with_policy.messages()[-1]["content"].endswith("sample 2")
    assert with_policy.pick(1).message.text == "turn 0 draw 1 sample 0"
    for number in (0, 5):
        with pytest.raises(ValueError, match="candidates are 1 to 4"):
            with_policy.pick(number)
    for forget in (lambda: with_policy.say("Two."), with_policy.retry, with_policy.undo, with_policy.clear):
        if with_policy.turns:
            with_policy.draw_candidates(2)
        forget()
        with pytest.raises(ValueError, match="no candidates"):
            with_policy.pick(1)


def test_replies_are_drawn_under_the_steering_of_the_moment(talk: Talk) -> None:
    with_policy = talk()
    with_policy.say("One.")
    playful = Steering(fixed={"a_emotion": "playful"})
    with_policy.steer(playful)
    with_policy.retry()
    assert [steering for _, _, steering in with_policy.engine.asked] == [Steering(), playful]
    assert with_policy.last.steering == playful


def test_steering_that_the_engine_refuses_is_not_set(talk: Talk) -> None:
    with_policy = talk(blocks=False, refuses="it writes no blocks")
    with pytest.raises(ValueError, match="it writes no blocks"):
        with_policy.steer(Steering(fixed={"a_emotion": "playful"}))
    assert not with_policy.steering
    assert with_policy.say("One.").invalid_reason is None


@pytest.mark.parametrize("stops", [KeyboardInterrupt, ValueError])
def test_a_reply_that_is_stopped_leaves_nothing(talk: Talk, stops: type[BaseException]) -> None:
    with_policy = talk()
    with_policy.say("One.")
    with_policy.draw_candidates(2)
    before = with_policy.turns, with_policy.candidates

    def heard(piece: str) -> None:
        raise stops

    for draw in (lambda: with_policy.say("Two.", heard), lambda: with_policy.retry(heard)):
        with pytest.raises(stops):
            draw()
        assert (with_policy.turns, with_policy.candidates) == before
    assert with_policy.retry().message.text == "turn 0 draw 2 sample 0"  # as if it had not been asked for before


def test_a_full_context_says_what_helps(talk: Talk) -> None:
    with_policy = talk(lambda prompt, _: None if len(prompt.messages) > 2 else "Hm.", blocks=False)
    with_policy.say("One.")
    with pytest.raises(ValueError, match=r"a reply of 50 tokens.*/undo.*/new"):
        with_policy.say("Two.")
    assert len(with_policy.turns) == 1


def test_a_chat_template_that_takes_no_such_messages_is_told(talk: Talk) -> None:
    def script(prompt: Prompt, _: int) -> str:
        raise TemplateError("System role not supported")

    with pytest.raises(ValueError, match="chat template does not accept this conversation: System role not supported"):
        talk(script).say("One.")


@pytest.mark.parametrize("ask", [Conversation.undo, Conversation.retry, lambda talk: talk.draw_candidates(2)])
def test_where_nothing_was_said_nothing_can_be_taken_back(talk: Talk, ask: Callable[[Conversation], object]) -> None:
    with pytest.raises(ValueError, match="The conversation is empty"):
        ask(talk())


@pytest.mark.parametrize(
    ("text", "finish", "blocks", "said", "fault"),
    [
        (CHAINED, FinishReason.STOP, True, "Hm {so}.", None),
        (CHAINED, FinishReason.LENGTH, True, "Hm {so}.", "cut at the token limit"),
        (CHAINED[:-8], FinishReason.STOP, True, "", "empty utterance"),
        ("{u_motivation: a} Hm.", FinishReason.STOP, True, "{u_motivation: a} Hm.", "state block: expected"),
        ("{u_motivation: a} Hm.", FinishReason.STOP, False, "{u_motivation: a} Hm.", None),
        (" ", FinishReason.STOP, False, " ", "empty utterance"),
    ],
)
def test_what_is_wrong_with_a_reply_is_said(
    text: str, finish: FinishReason, blocks: bool, said: str, fault: str | None
) -> None:
    reply = parse_candidate(Sample(text, 5, finish), blocks)
    assert (reply.text, reply.message.text) == (text, said)
    assert reply.invalid_reason is None if fault is None else fault in str(reply.invalid_reason)
    assert (reply.chain is not None) == (blocks and text.startswith(CHAINED[:40]))
