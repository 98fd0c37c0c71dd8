"""The text form of the state-action chain: `parse` restores what `render` writes, and accepts nothing else."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_dialog.sac import Chain, Intent, Unparsed, normalize_label, parse, render
from sage_dialog.sac.chain import render_block

# What a model or a forum post may put where it hurts: the form's own signs, newlines of every kind, look-alikes.
HOSTILE = [
    *"{}[],: \n\r\t\x00\x0b\x1c\x85\xa0\u2028\u2029\ufeff\U0001f600é",
    *("null", "topic:", "u_topic: [", "u_motivation: ", "a_emotion: ", "} {", "{a_motivation: null", "]} "),
]
utterances = st.one_of(st.text(), st.lists(st.sampled_from([*HOSTILE, *string.ascii_letters])).map("".join))
hostile_text = st.one_of(
    utterances, st.text(st.characters(codec=None)), st.text(st.characters(categories=["Cs", "Cc", "Zs"]))
)


def is_label(text: str) -> bool:
    try:
        Intent(text)
    except ValueError:
        return False
    return True


labels = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}[],:\u2028\u2029"), min_size=1)
    .map(str.strip)
    .filter(is_label),
    st.sampled_from(["sad", "seeking advice", "don't know", "u_motivation", "nullable", "Null", "NULL", "#1; (maybe)"]),
)
intents = st.builds(Intent, st.none() | labels, st.none() | labels, st.lists(labels, max_size=4).map(tuple))
chains = st.builds(Chain, intents, intents, utterances)

EMPTY = "{u_motivation: null, u_emotion: null, u_topic: []} {a_motivation: null, a_emotion: null, a_topic: []}"


@given(chains)
@example(Chain(Intent(), Intent(), ""))
@example(Chain(Intent(), Intent(), " "))
@example(Chain(Intent("a"), Intent("b"), render(Chain(Intent("c"), Intent("d"), "e"))))
@example(Chain(Intent(topics=("a", "a")), Intent(), "the topic: [none] {really}\nand more\u2028"))
def test_what_is_rendered_is_read_back(chain):
    assert parse(render(chain)) == chain


@given(utterances)
def test_an_utterance_follows_the_blocks_letter_by_letter(utterance):
    assert render(Chain(Intent(), Intent(), utterance)) == f"{EMPTY} {utterance}"


def test_the_form_is_exactly_this():
    chain = Chain(
        Intent("sharing", "sad", ("holidays",)), Intent("empathy", "supportive", ("family", "dinner")), "That is tough!"
    )
    assert render(chain) == (
        "{u_motivation: sharing, u_emotion: sad, u_topic: [holidays]} "
        "{a_motivation: empathy, a_emotion: supportive, a_topic: [family, dinner]} That is tough!"
    )


@given(hostile_text)
def test_a_text_is_either_exactly_a_chain_or_has_a_reason(text):
    read = parse(text)
    if isinstance(read, Chain):
        assert render(read) in (text, text + " ")
    else:
        assert read.text == text
        assert read.reason.startswith(("state block: ", "action block: ", "utterance: "))


@given(chains, st.data())
def test_a_chain_with_a_changed_letter_is_never_misread(chain, data):
    text = render(chain)
    position = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from(["", *"{}[],: \nux"]))
    changed = text[:position] + letter + text[position + 1 :]
    read = parse(changed)
    assert isinstance(read, Unparsed) or render(read) in (changed, changed + " ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "state block"),
        ("Just words.", "state block"),
        (" " + EMPTY + " hi", "state block"),
        ("{a_motivation: null, a_emotion: null, a_topic: []} hi", "state block"),
        ("{user_motivation: sad, user_emotion: null, user_topic: []} hi", "state block"),
        ("{u_motivation: sad, u_emotion: null, u_topic: dogs} hi", "state block"),
        ("{u_motivation: sad, u_topic: [], u_emotion: null} hi", "state block"),
        ("{u_motivation: , u_emotion: null, u_topic: []} hi", "state block"),
        ("{u_motivation:  sad, u_emotion: null, u_topic: []} hi", "state block: motivation ' sad'"),
        ("{u_motivation: sad, u_emotion: null, u_topic: [dogs,cats]} hi", "state block"),
        ("{u_motivation: sad, u_emotion: null, u_topic: [null]} hi", "state block: topic is the word 'null'"),
        ("{u_motivation: sad, u_emotion: null, u_topic: [a, ]} hi", "state block"),
        ("{u_motivation: sa\nd, u_emotion: null, u_topic: []} hi", "state block"),
        (EMPTY.replace("} {", "}{") + " hi", "action block: no space"),
        (EMPTY.replace("} {", "}  {") + " hi", "action block"),
        ("{u_motivation: null, u_emotion: null, u_topic: []} hi", "action block"),
        ("{u_motivation: null, u_emotion: null, u_topic: []}", "action block"),
        (EMPTY[:-1], "action block"),
        (EMPTY + "hi", "utterance: no space"),
        (EMPTY + "\nhi", "utterance: no space"),
    ],
)
def test_an_unparsed_text_has_its_reason(text, reason):
    read = parse(text)
    assert isinstance(read, Unparsed)
    assert read.reason.startswith(reason)


def test_a_text_that_ends_after_the_blocks_is_a_chain_with_an_empty_utterance():
    assert parse(EMPTY) == Chain(Intent(), Intent(), "")


def test_null_is_a_value_and_not_the_word():
    assert render_block("u", Intent()) == "{u_motivation: null, u_emotion: null, u_topic: []}"
    assert parse(EMPTY + " null") == Chain(Intent(None, None, ()), Intent(None, None, ()), "null")


@given(hostile_text)
def test_a_normalized_label_is_a_label_or_none(text):
    label = normalize_label(text)
    if label is not None:
        assert parse(render(Chain(Intent(label, label, (label,)), Intent(), ""))).state == Intent(
            label, label, (label,)
        )
        assert normalize_label(label) == label
        label.encode("utf-8")


@given(labels)
def test_normalising_changes_only_case_and_spaces_of_a_label(label):
    assert normalize_label(label) in (" ".join(label.lower().split()), None)


@pytest.mark.parametrize("text", ["", "  ", "null", " NULL ", "None", "n/a", "{}", "[:,]", "\u2028"])
def test_words_for_a_missing_value_are_no_label(text):
    assert normalize_label(text) is None


def test_normalized_labels_read_like_words():
    assert normalize_label("  Seeking {advice}:\n now ") == "seeking advice now"


@pytest.mark.parametrize(
    "label",
    [
        "",
        " ",
        " sad",
        "sad ",
        "null",
        "a,b",
        "a:b",
        "{",
        "}",
        "[",
        "]",
        "a\nb",
        "a\u2028b",
        "a\x85b",
        "\u2028",
        "\ud800",
    ],
)
def test_a_label_that_the_form_cannot_hold_is_refused(label):
    for fields in ({"motivation": label}, {"emotion": label}, {"topics": ("fine", label)}):
        with pytest.raises(ValueError, match=r"motivation|emotion|topic"):
            Intent(**fields)


@pytest.mark.parametrize("topics", ["dogs", ["dogs"]])
def test_topics_that_are_no_tuple_are_refused(topics):
    with pytest.raises(TypeError, match="tuple of labels"):
        Intent(topics=topics)
