"""State of a conversation, and the messages that the policy gets."""

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


def test_the_policy_sees_its_system_prompt_the_users_text_and_its_own_blocks(talk: Talk) -> None:
    conversation = talk()
    first = conversation.say("I moved.")
    assert first.message.text == "turn 0 draw 0 sample 0" and first.text.startswith("{u_motivation: sharing, ")
    conversation.say("It is cold here.")
    _, prompt, _ = conversation.engine.requests[-1]
    assert prompt.messages == (
        {"role": "system", "content": "You listen."},
        {"role": "user", "content": "I moved."},
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "It is cold here."},
    )
    assert conversation.messages()[:4] == prompt.messages and len(conversation.messages()) == 5


def test_every_draw_of_a_turn_has_its_own_name(talk: Talk) -> None:
    conversation = talk()
    conversation.say("One.")
    conversation.say("Two.")
    assert conversation.retry().message.text == "turn 1 draw 1 sample 0"
    assert [reply.message.text for reply in conversation.draw_candidates(3)] == [
        f"turn 1 draw 2 sample {j}" for j in range(3)
    ]
    assert conversation.retry().message.text == "turn 1 draw 3 sample 0"
    assert len(conversation.turns) == 2
    items = [prompt.item for _, prompt, _ in conversation.engine.requests]
    assert len(set(items)) == len(items) == 5
    assert all(prompt.messages[-1]["content"] == "Two." for _, prompt, _ in conversation.engine.requests[1:])


def test_the_same_lines_draw_the_same_after_undo_and_clear(talk: Talk) -> None:
    conversation = talk()
    first = conversation.say("One.")
    conversation.retry()
    assert conversation.undo().user == "One."
    assert conversation.say("One.") == first
    conversation.clear()
    assert conversation.messages() == ({"role": "system", "content": "You listen."},)
    assert conversation.say("One.") == first


def test_a_candidate_replaces_the_reply_once_it_is_picked(talk: Talk) -> None:
    conversation = talk()
    first = conversation.say("One.")
    conversation.steer(Steering(boosts={"a_motivation": {"humor": 4.0}}))
    conversation.draw_candidates(4)
    assert conversation.last.reply == first and not conversation.last.steering
    conversation.steer(Steering())
    assert conversation.pick(3).message.text == "turn 0 draw 1 sample 2"
    assert conversation.last.steering.boosts == {"a_motivation": {"humor": 4.0}}  # the steering of its draw
    assert conversation.messages()[-1]["content"].endswith("sample 2")
    assert conversation.pick(1).message.text == "turn 0 draw 1 sample 0"
    for number in (0, 5):
        with pytest.raises(ValueError, match="candidates are 1 to 4"):
            conversation.pick(number)
    for command in (lambda: conversation.say("Two."), conversation.retry, conversation.undo, conversation.clear):
        if conversation.turns:
            conversation.draw_candidates(2)
        command()
        with pytest.raises(ValueError, match="no candidates"):
            conversation.pick(1)


def test_replies_are_drawn_with_the_current_steering(talk: Talk) -> None:
    conversation = talk()
    conversation.say("One.")
    playful = Steering(fixed={"a_emotion": "playful"})
    conversation.steer(playful)
    conversation.retry()
    assert [steering for _, _, steering in conversation.engine.requests] == [Steering(), playful]
    assert conversation.last.steering == playful


def test_steering_that_the_engine_refuses_is_not_set(talk: Talk) -> None:
    conversation = talk(blocks=False, steering_error="it writes no blocks")
    with pytest.raises(ValueError, match="it writes no blocks"):
        conversation.steer(Steering(fixed={"a_emotion": "playful"}))
    assert not conversation.steering
    assert conversation.say("One.").invalid_reason is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_stopped_reply_changes_nothing(talk: Talk, error: type[BaseException]) -> None:
    conversation = talk()
    conversation.say("One.")
    conversation.draw_candidates(2)
    before = conversation.turns, conversation.candidates

    def stop(piece: str) -> None:
        raise error

    for draw in (lambda: conversation.say("Two.", stop), lambda: conversation.retry(stop)):
        with pytest.raises(error):
            draw()
        assert (conversation.turns, conversation.candidates) == before
    assert conversation.retry().message.text == "turn 0 draw 2 sample 0"  # stopped draws do not count


def test_the_error_of_a_full_context_names_commands_that_help(talk: Talk) -> None:
    conversation = talk(lambda prompt, _: None if len(prompt.messages) > 2 else "Hm.", blocks=False)
    conversation.say("One.")
    with pytest.raises(ValueError, match=r"a reply of 50 tokens.*/undo.*/new"):
        conversation.say("Two.")
    assert len(conversation.turns) == 1


def test_messages_that_the_chat_template_refuses_are_an_error(talk: Talk) -> None:
    def script(prompt: Prompt, _: int) -> str:
        raise TemplateError("System role not supported")

    with pytest.raises(ValueError, match="chat template does not accept this conversation: System role not supported"):
        talk(script).say("One.")


@pytest.mark.parametrize("command", [Conversation.undo, Conversation.retry, lambda talk: talk.draw_candidates(2)])
def test_an_empty_conversation_has_nothing_to_undo(talk: Talk, command: Callable[[Conversation], object]) -> None:
    with pytest.raises(ValueError, match="The conversation is empty"):
        command(talk())


@pytest.mark.parametrize(
    ("text", "finish", "blocks", "utterance", "reason"),
    [
        (CHAINED, FinishReason.STOP, True, "Hm {so}.", None),
        (CHAINED, FinishReason.LENGTH, True, "Hm {so}.", "cut at the token limit"),
        (CHAINED[:-8], FinishReason.STOP, True, "", "empty utterance"),
        ("{u_motivation: a} Hm.", FinishReason.STOP, True, "{u_motivation: a} Hm.", "state block: expected"),
        ("{u_motivation: a} Hm.", FinishReason.STOP, False, "{u_motivation: a} Hm.", None),
        (" ", FinishReason.STOP, False, " ", "empty utterance"),
    ],
)
def test_an_invalid_reply_has_its_reason(
    text: str, finish: FinishReason, blocks: bool, utterance: str, reason: str | None
) -> None:
    reply = parse_candidate(Sample(text, 5, finish), blocks)
    assert (reply.text, reply.message.text) == (text, utterance)
    assert reply.invalid_reason is None if reason is None else reason in str(reply.invalid_reason)
    assert (reply.chain is not None) == (blocks and text.startswith(CHAINED[:40]))
