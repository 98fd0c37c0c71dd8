"""Reading a chain while it is being written, at every cut, against `render` and `parse` of the whole."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_dialog.sac import Chain, Intent, parse, render
from sage_dialog.sac.grammar import FIELDS, Form, Progress, Value

FREE = Form.given({})
LETTERS = "nulx \xa0'#-é\U0001f600"
SIGNS = [*LETTERS, *"{}[],:\n\x85\u2028", ", ", "null", "]} ", "]}", "} {", "u_emotion: ", ", a_topic: ["]


def is_label(text: str) -> bool:
    try:
        Intent(topics=(text,))
    except ValueError:
        return False
    return True


labels = st.text(LETTERS, min_size=1, max_size=6).filter(is_label)
intents = st.builds(Intent, st.none() | labels, st.none() | labels, st.lists(labels, max_size=3).map(tuple))
texts = st.lists(st.sampled_from(SIGNS), max_size=6).map("".join)
chains = st.builds(Chain, intents, intents, texts)
HARD = Chain(Intent("null x", None, ("nul", "a", "a")), Intent(None, "u_motivation", ()), "{a_topic: [x]} ")


def values_of(chain: Chain) -> dict[str, Value]:
    parts = [(intent.motivation, intent.emotion, intent.topics) for intent in (chain.state, chain.action)]
    return dict(zip(FIELDS, [value for part in parts for value in part], strict=True))


def spans_of(chain: Chain) -> dict[str, tuple[int, int]]:
    """Where each value stands in the rendered text: no label holds a colon, so that a key is first found as a key."""
    text, spans = render(chain), {}
    for field, value in values_of(chain).items():
        start = text.index(f"{field}: ") + len(f"{field}: ")
        start += text[start] == "[" and isinstance(value, tuple)
        written = ", ".join(value) if isinstance(value, tuple) else value or "null"
        assert text[start:].startswith(written)
        spans[field] = start, start + len(written)
    return spans


def completed(progress: Progress) -> str:
    """Some text after which the message parses."""
    text = ""
    while not progress.may_end:
        more = (
            progress.due or ("" if progress.label_may_end() else "x") or progress.form.literals[progress.part // 2 + 1]
        )
        after = progress.feed(more)
        assert after is not None
        progress, text = after, text + more
    return text


@given(chains)
@example(HARD)
def test_at_every_cut_the_field_under_way_and_what_stands_of_it_are_known(chain):
    text, spans = render(chain), spans_of(chain)
    begun = len(text) - len(chain.utterance)
    for cut in range(len(text) + 1):
        progress = FREE.start().feed(text[:cut])
        assert progress is not None
        assert progress.in_utterance == (cut >= begun)
        here = [field for field, (start, stop) in spans.items() if start <= cut <= stop]
        assert progress.field == (here[0] if here else None)
        if here and here[0].endswith("_topic"):
            *whole, last = text[spans[here[0]][0] : cut].split(", ")
            assert progress.topics == (*whole, *([last[:-1]] if last.endswith(",") else []))
            assert progress.label == ("" if last.endswith(",") else last)
        elif here:
            assert (progress.topics, progress.label) == ((), text[spans[here[0]][0] : cut])


@given(chains, st.data())
def test_what_comes_in_pieces_is_read_like_what_comes_at_once(chain, data):
    text = render(chain)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    progress = FREE.start()
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        progress = progress.feed(text[start:stop])
    assert progress == FREE.start().feed(text)


@given(chains, st.data())
@example(HARD, None)
def test_a_message_goes_on_exactly_where_some_message_that_begins_so_parses(chain, data):
    text = render(chain)
    if data is not None:
        position = data.draw(st.integers(0, len(text)))
        text = text[:position] + data.draw(texts) + text[position + data.draw(st.integers(0, 3)) :]
    for cut in range(len(text) + 1):
        progress = FREE.start().feed(text[:cut])
        if progress is not None:
            assert progress.may_end == isinstance(parse(text[:cut]), Chain)
            assert isinstance(parse(text[:cut] + completed(progress)), Chain)
        else:
            assert not isinstance(parse(text), Chain)


@given(chains, st.sets(st.sampled_from(FIELDS)), st.data())
def test_with_given_values_only_messages_that_hold_them_go_on(chain, given_fields, data):
    values = values_of(chain)
    form = Form.given({field: values[field] for field in given_fields})
    text = render(chain)
    cut = data.draw(st.integers(0, len(text)))
    progress = form.start().feed(text[:cut])
    assert progress is not None
    read = parse(text[:cut] + completed(progress))
    assert isinstance(read, Chain)
    assert {field: values_of(read)[field] for field in given_fields} == {field: values[field] for field in given_fields}

    other = data.draw(chains)
    differs = any(values_of(other)[field] != values[field] for field in given_fields)
    assert (form.start().feed(render(other)) is None) == differs


@given(chains, st.data())
@example(HARD, None)
def test_labels_that_go_on_or_may_begin_are_named_with_what_must_come_before(chain, data):
    text, spans = render(chain), spans_of(chain)
    before = 0
    for field, (start, stop) in spans.items():
        value = values_of(chain)[field]
        begin = start
        for label in value if isinstance(value, tuple) else (text[start:stop],):
            for cut in range(before, begin + len(label) + 1):
                progress = FREE.start().feed(text[:cut])
                assert (field, text[cut:begin], text[begin:cut]) in progress.openings()
            before = begin + len(label)
            begin = before + len(", ")
        before = stop


@given(chains, texts, st.lists(labels, max_size=3), st.data())
def test_what_may_follow_and_what_is_said_of_the_words_is_the_same_after_the_likeness(chain, following, words, data):
    text = render(chain)
    words += data.draw(st.lists(st.sampled_from([*chain.state.topics, *chain.action.topics, "一"]), max_size=2))
    progress = FREE.start().feed(text[: data.draw(st.integers(0, len(text)))])
    likeness = progress.likeness(words)
    assert (progress.field, progress.due, progress.may_end) == (likeness.field, likeness.due, likeness.may_end)
    assert set(words).intersection(progress.topics) == set(words).intersection(likeness.topics)
    assert progress.label == likeness.label or not any(
        word.startswith(begun.label) for word in words for begun in (progress, likeness)
    )
    one, other = progress.feed(following), likeness.feed(following)
    assert (one is None) == (other is None)
    assert one is None or one.likeness(words) == other.likeness(words)


def test_likenesses_are_few():
    texts = [f"{{u_motivation: {label}" for label in ("sad", "so so", "nuxx", "humor", "calm")]
    assert len({FREE.start().feed(text).likeness(("humor",)) for text in texts}) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"motivation": "humor"}, r"'motivation' is no field of the form, which has u_motivation, u_emotion,"),
        ({"a_motivation": "a, b"}, r"a_motivation 'a, b' holds ',', which the text form reserves"),
        ({"u_emotion": "null"}, r"u_emotion is the word 'null'; use None"),
        ({"a_topic": ("fine", "[")}, r"a_topic '\[' holds '\['"),
        ({"a_topic": "music"}, r"a_topic takes a list of labels, which may be empty, not 'music'"),
        ({"a_emotion": ("calm",)}, r"a_emotion takes one label or null, not \['calm'\]"),
    ],
)
def test_a_value_that_the_form_cannot_hold_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Form.given(values)
