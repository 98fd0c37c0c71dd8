"""State of a conversation, and the messages that the policy gets."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from jinja2 import TemplateError

from sage_dialog.config import Steering
from sage_dialog.inference.candidates import parse_candidate
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.studio.chat.conversation import ContextFullError, Conversation, StopReplyError

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
    assert conversation.last.reply == first and not conversation.last.settings.steering
    conversation.steer(Steering())
    assert conversation.pick(3).message.text == "turn 0 draw 1 sample 2"
    assert conversation.last.settings.steering.boosts == {"a_motivation": {"humor": 4.0}}  # the steering of its draw
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
    assert conversation.last.settings.steering == playful


def test_steering_that_the_engine_refuses_is_not_set(talk: Talk) -> None:
    conversation = talk(blocks=False, steering_error="it writes no blocks")
    with pytest.raises(ValueError, match="it writes no blocks"):
        conversation.steer(Steering(fixed={"a_emotion": "playful"}))
    assert not conversation.settings.steering
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


@pytest.mark.parametrize("stop", [KeyboardInterrupt, StopReplyError])
def test_the_text_of_a_stopped_reply_becomes_the_reply(talk: Talk, stop: type[BaseException]) -> None:
    conversation = talk(lambda *_: "I am here, and I have time.", blocks=False)

    def on_text(piece: str) -> None:
        raise stop

    with pytest.raises(stop):
        conversation.say("One.", on_text)
    assert conversation.last.reply.text == "I am here, and I hav"
    assert conversation.last.reply.invalid_reason == "stopped"
    conversation.say("Two.")
    assert conversation.engine.prompts("sage_7")[-1][2] == {"role": "assistant", "content": "I am here, and I hav"}
    assert conversation.last.reply.valid


def test_an_edited_message_gets_the_reply_that_it_would_have_had(talk: Talk) -> None:
    def echo(prompt: Prompt, _: int) -> str:
        return f"{prompt.item} {prompt.messages[-1]['content']}"

    conversation, other = talk(echo, blocks=False), talk(echo, blocks=False)
    conversation.say("One.")
    conversation.say("Tow.")
    conversation.retry()
    other.say("One.")
    assert conversation.edit("Two.") == other.say("Two.")
    assert conversation.turns == other.turns
    conversation.engine.reply = lambda *_: None
    with pytest.raises(ContextFullError):
        conversation.edit("Three.")
    assert conversation.turns == other.turns


def test_changed_settings_hold_from_the_next_reply_on(talk: Talk) -> None:
    conversation = talk()
    conversation.say("One.")
    conversation.set_sampling(temperature=0.5, max_new_tokens=7)
    conversation.set_system_prompt(None)
    conversation.say("Two.")
    first, second = (turn.settings for turn in conversation.turns)
    assert (first.sampling.temperature, first.sampling.max_new_tokens, first.system_prompt) == (1.0, 50, "You listen.")
    assert (second.sampling.temperature, second.sampling.max_new_tokens, second.system_prompt) == (0.5, 7, None)
    assert [prompt[0]["role"] for prompt in conversation.engine.prompts("sage_7")] == ["system", "user"]
    for values in ({"temperature": 0.0}, {"max_new_tokens": 0}, {"max_new_tokens": 1_000_000}):
        with pytest.raises(ValueError, match=next(iter(values)) if 0 in values.values() else "holds 1,000,000"):
            conversation.set_sampling(**values)
    assert conversation.settings == second


def test_the_context_left_is_that_of_an_empty_next_message(talk: Talk) -> None:
    conversation = talk(lambda *_: "Three more words.", blocks=False)
    conversation.engine.window = 20
    assert conversation.context_left == 18  # the system prompt has two words
    conversation.say("One two.")
    assert conversation.context_left == 13


def test_the_error_of_a_full_context_tells_a_long_message_from_a_long_conversation(talk: Talk) -> None:
    conversation = talk(lambda prompt, _: None if len(prompt.messages) > 2 else "Hm.", blocks=False)
    conversation.engine.window = 100
    conversation.say("One.")
    with pytest.raises(ContextFullError, match=r"has 5 tokens. With a reply of up to 50 tokens it does not") as full:
        conversation.say("Two.")
    assert len(conversation.turns) == 1 and not full.value.message_alone
    with pytest.raises(ContextFullError, match=r"10,000 characters \(2,000 tokens\).* 100 tokens.* about 240") as full:
        conversation.say("word " * 2000)
    assert len(conversation.turns) == 1 and full.value.message_alone


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
