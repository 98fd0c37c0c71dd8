"""The user's labels move to the next assistant message, and never further."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.sac import Annotated, Chain, Intent, augment, normalised_label, parse, render, strip_blocks

labels = st.text().map(normalised_label)
topics = st.lists(labels.filter(bool), max_size=3).map(tuple)
intents = st.builds(Intent, labels, labels, topics)


@st.composite
def dialogues(draw):
    first = draw(st.sampled_from(["user", "assistant"]))
    other = {"user": "assistant", "assistant": "user"}
    role, said = first, []
    for text, intent in draw(st.lists(st.tuples(st.text(), intents), max_size=8)):
        said.append(Annotated(role, text, intent))
        role = other[role]
    return said


def user(text, *intent):
    return Annotated("user", text, Intent(*intent))


def assistant(text, *intent):
    return Annotated("assistant", text, Intent(*intent))


@given(dialogues())
def test_each_assistant_message_carries_the_state_of_the_user_message_before_it(said):
    messages = augment(said)
    assert [message["role"] for message in messages] == [utterance.role for utterance in said]
    for position, (utterance, message) in enumerate(zip(said, messages, strict=True)):
        if utterance.role == "user":
            assert message["content"] == utterance.text
        else:
            state = said[position - 1].intent if position else Intent()
            assert parse(message["content"]) == Chain(state, utterance.intent, utterance.text)


@given(dialogues())
def test_stripping_the_blocks_gives_back_what_was_said(said):
    spoken = [
        strip_blocks(message["content"]) if message["role"] == "assistant" else message["content"]
        for message in augment(said)
    ]
    assert spoken == [utterance.text for utterance in said]


@given(dialogues(), dialogues())
def test_no_state_leaks_from_one_dialogue_into_the_next(before, after):
    alone = augment(after)
    augment(before)
    assert augment(after) == alone


def test_the_first_assistant_message_of_a_new_dialogue_has_an_empty_state():
    augment([user("I lost my dog.", "sharing", "sad", ("dogs",))])
    (message,) = augment([assistant("Hello!", "greeting")])
    assert message["content"] == render(Chain(Intent(), Intent("greeting"), "Hello!"))


def test_the_last_user_message_has_nobody_to_carry_its_state():
    messages = augment([assistant("Hi!"), user("I am sad.", "sharing", "sad")])
    assert [message["content"] for message in messages][1] == "I am sad."


def test_nothing_said_gives_no_messages():
    assert augment([]) == []


@pytest.mark.parametrize(
    ("said", "position"),
    [
        ([user("a"), user("b")], 1),
        ([user("a"), assistant("b"), assistant("c")], 2),
        ([Annotated("system", "a", Intent())], 0),
        ([user("a"), Annotated("gpt", "b", Intent())], 1),
    ],
)
def test_roles_that_do_not_alternate_are_refused_by_position(said, position):
    with pytest.raises(ValueError, match=f"utterance {position} has role"):
        augment(said)


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
