"""The user's labels move to the next assistant message, and never further."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain, Intent, normalize_label, parse, render, strip_blocks
from sage_dialog.sac.augmentation import augment

labels = st.text().map(normalize_label)
topics = st.lists(labels.filter(bool), max_size=3).map(tuple)
intents = st.builds(Intent, labels, labels, topics)


@st.composite
def dialogues(draw):
    """Messages in alternation and their intents."""
    first = draw(st.sampled_from(["user", "assistant"]))
    other = {"user": "assistant", "assistant": "user"}
    annotated = draw(st.lists(st.tuples(st.text(), intents), max_size=8))
    messages = [Message(other[first] if turn % 2 else first, text) for turn, (text, _) in enumerate(annotated)]
    return messages, [intent for _, intent in annotated]


@given(dialogues())
def test_each_assistant_message_carries_the_state_of_the_user_message_before_it(dialogue):
    messages, intents = dialogue
    augmented = augment(messages, intents)
    assert [message.role for message in augmented] == [message.role for message in messages]
    for position, (before, after) in enumerate(zip(messages, augmented, strict=True)):
        if before.role == "user":
            assert after.content == before.text
        else:
            state = intents[position - 1] if position else Intent()
            assert parse(after.content) == after.chain == Chain(state, intents[position], before.text)


@given(dialogues())
def test_stripping_the_blocks_restores_the_text(dialogue):
    augmented = augment(*dialogue)
    stripped = [
        strip_blocks(message.content) if message.role == "assistant" else message.content for message in augmented
    ]
    assert stripped == [message.text for message in augmented] == [message.text for message in dialogue[0]]


@given(dialogues(), dialogues())
def test_no_state_leaks_from_one_dialogue_into_the_next(before, after):
    alone = augment(*after)
    augment(*before)
    assert augment(*after) == alone


def test_the_first_assistant_message_of_a_new_dialogue_has_an_empty_state():
    augment([Message("user", "I lost my dog.")], [Intent("sharing", "sad", ("dogs",))])
    (message,) = augment([Message("assistant", "Hello!")], [Intent("greeting")])
    assert message.content == render(Chain(Intent(), Intent("greeting"), "Hello!"))


def test_the_labels_of_a_last_user_message_are_dropped():
    messages = augment(
        [Message("assistant", "Hi!"), Message("user", "I am sad.")], [Intent(), Intent("sharing", "sad")]
    )
    assert messages[1].content == "I am sad."


def test_an_empty_dialogue_has_no_messages():
    assert augment([], []) == []


@pytest.mark.parametrize(
    ("roles", "position"),
    [(("user", "user"), 1), (("user", "assistant", "assistant"), 2), (("system",), 0), (("user", "gpt"), 1)],
)
def test_roles_that_do_not_alternate_are_refused_by_position(roles, position):
    with pytest.raises(ValueError, match=f"message {position} has role"):
        augment([Message(role, "a") for role in roles], [Intent()] * len(roles))


@given(st.text())
def test_stripping_takes_off_one_pair_of_blocks_and_nothing_more(text):
    chain = render(Chain(Intent("a"), Intent("b"), text))
    assert strip_blocks(chain) == text
    assert strip_blocks(render(Chain(Intent(), Intent(), chain))) == chain


@pytest.mark.parametrize(
    "text", ["", "Plain words.", "{u_motivation: sad} half a chain", "I {really} mean it, topic: dogs"]
)
def test_stripping_leaves_a_text_without_blocks_alone(text):
    assert strip_blocks(text) == text
