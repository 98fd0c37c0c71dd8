"""Incremental parsing of a chain at every cut, against `render` and `parse` of the whole."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage_dialog.sac import Chain, Intent, parse, render
from sage_dialog.sac.grammar import FIELDS, BlockGrammar, FieldValue, ParserState, ValueLimits

FREE = BlockGrammar.with_values({})
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


def values_of(chain: Chain) -> dict[str, FieldValue]:
    parts = [(intent.motivation, intent.emotion, intent.topics) for intent in (chain.state, chain.action)]
    return dict(zip(FIELDS, [value for part in parts for value in part], strict=True))


def spans_of(chain: Chain) -> dict[str, tuple[int, int]]:
    """The span of each value in the rendered text. No label holds a colon, so a key is first found as a key."""
    text, spans = render(chain), {}
    for field, value in values_of(chain).items():
        start = text.index(f"{field}: ") + len(f"{field}: ")
        start += text[start] == "[" and isinstance(value, tuple)
        written = ", ".join(value) if isinstance(value, tuple) else value or "null"
        assert text[start:].startswith(written)
        spans[field] = start, start + len(written)
    return spans


def completed(state: ParserState) -> str:
    """Some text after which the message parses."""
    text = ""
    while not state.may_end:
        more = state.required or ("" if state.label_may_end else "x") or state.grammar.literals[state.part // 2 + 1]
        after = state.advance(more)
        assert after is not None
        state, text = after, text + more
    return text


@given(chains)
@example(HARD)
def test_the_current_field_and_its_text_are_known_at_every_cut(chain):
    text, spans = render(chain), spans_of(chain)
    begun = len(text) - len(chain.utterance)
    for cut in range(len(text) + 1):
        state = FREE.initial_state().advance(text[:cut])
        assert state is not None
        assert state.in_utterance == (cut >= begun)
        here = [field for field, (start, stop) in spans.items() if start <= cut <= stop]
        assert state.field == (here[0] if here else None)
        if here and here[0].endswith("_topic"):
            *whole, last = text[spans[here[0]][0] : cut].split(", ")
            assert state.topics == (*whole, *([last[:-1]] if last.endswith(",") else []))
            assert state.label == ("" if last.endswith(",") else last)
        elif here:
            assert (state.topics, state.label) == ((), text[spans[here[0]][0] : cut])


@given(chains, st.data())
def test_advancing_in_pieces_equals_advancing_at_once(chain, data):
    text = render(chain)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    state = FREE.initial_state()
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        state = state.advance(text[start:stop])
    assert state == FREE.initial_state().advance(text)


@settings(deadline=None)  # the machine's load decides the time
@given(chains, st.data())
@example(HARD, None)
def test_a_prefix_is_accepted_exactly_where_some_continuation_parses(chain, data):
    text = render(chain)
    if data is not None:
        position = data.draw(st.integers(0, len(text)))
        text = text[:position] + data.draw(texts) + text[position + data.draw(st.integers(0, 3)) :]
    for cut in range(len(text) + 1):
        state = FREE.initial_state().advance(text[:cut])
        if state is not None:
            assert state.may_end == isinstance(parse(text[:cut]), Chain)
            assert isinstance(parse(text[:cut] + completed(state)), Chain)
        else:
            assert not isinstance(parse(text), Chain)


@given(chains, st.sets(st.sampled_from(FIELDS)), st.data())
def test_with_fixed_values_only_messages_with_these_values_are_accepted(chain, fixed_fields, data):
    values = values_of(chain)
    grammar = BlockGrammar.with_values({field: values[field] for field in fixed_fields})
    text = render(chain)
    cut = data.draw(st.integers(0, len(text)))
    state = grammar.initial_state().advance(text[:cut])
    assert state is not None
    read = parse(text[:cut] + completed(state))
    assert isinstance(read, Chain)
    assert {field: values_of(read)[field] for field in fixed_fields} == {field: values[field] for field in fixed_fields}

    other = data.draw(chains)
    differs = any(values_of(other)[field] != values[field] for field in fixed_fields)
    assert (grammar.initial_state().advance(render(other)) is None) == differs


LIMITED = BlockGrammar.with_values({}, ValueLimits(label_length=8, topics=2))
long_labels = st.text("nul \xa0é", min_size=1, max_size=10).filter(is_label)
long_intents = st.builds(
    Intent, st.none() | long_labels, st.none() | long_labels, st.lists(long_labels, max_size=3).map(tuple)
)


@settings(deadline=None)
@given(st.builds(Chain, long_intents, long_intents, texts), st.data())
def test_with_limits_a_prefix_is_accepted_exactly_where_a_message_within_them_follows(chain, data):
    def within(read: Chain) -> bool:
        parts = [(intent.motivation, intent.emotion, *intent.topics) for intent in (read.state, read.action)]
        return all(len(label or "") <= 8 for part in parts for label in part) and all(
            len(intent.topics) <= 2 for intent in (read.state, read.action)
        )

    text = render(chain)
    assert (LIMITED.initial_state().advance(text) is not None) == within(chain)
    text = text[: data.draw(st.integers(0, len(text)))] + data.draw(texts)
    state = LIMITED.initial_state().advance(text)
    if state is not None:
        read = parse(text + completed(state))
        assert isinstance(read, Chain)
        assert within(read)
        following, words = data.draw(texts), data.draw(st.lists(long_labels, max_size=2))
        advanced, canonical = state.advance(following), state.canonical(words).advance(following)
        assert (advanced is None) == (canonical is None)


@given(chains, st.data())
@example(HARD, None)
def test_label_positions_name_labels_that_may_continue_or_begin(chain, data):
    text, spans = render(chain), spans_of(chain)
    before = 0
    for field, (start, stop) in spans.items():
        value = values_of(chain)[field]
        begin = start
        for label in value if isinstance(value, tuple) else (text[start:stop],):
            for cut in range(before, begin + len(label) + 1):
                state = FREE.initial_state().advance(text[:cut])
                assert (field, text[cut:begin], text[begin:cut]) in state.label_positions()
            before = begin + len(label)
            begin = before + len(", ")
        before = stop


@given(chains, texts, st.lists(labels, max_size=3), st.data())
def test_the_canonical_state_has_the_same_continuations_and_keywords(chain, following, words, data):
    text = render(chain)
    words += data.draw(st.lists(st.sampled_from([*chain.state.topics, *chain.action.topics, "一"]), max_size=2))
    state = FREE.initial_state().advance(text[: data.draw(st.integers(0, len(text)))])
    canonical = state.canonical(words)
    assert (state.field, state.required, state.may_end) == (canonical.field, canonical.required, canonical.may_end)
    assert set(words).intersection(state.topics) == set(words).intersection(canonical.topics)
    assert state.label == canonical.label or not any(
        word.startswith(begun.label) for word in words for begun in (state, canonical)
    )
    one, other = state.advance(following), canonical.advance(following)
    assert (one is None) == (other is None)
    assert one is None or one.canonical(words) == other.canonical(words)


def test_canonical_states_are_few():
    texts = [f"{{u_motivation: {label}" for label in ("sad", "so so", "nuxx", "humor", "calm")]
    assert len({FREE.initial_state().advance(text).canonical(("humor",)) for text in texts}) == 2


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (
            {"motivation": "humor"},
            r"'motivation' is not a field of the blocks; the fields are u_motivation, u_emotion,",
        ),
        ({"a_motivation": "a, b"}, r"a_motivation 'a, b' holds ',', which the text form reserves"),
        ({"u_emotion": "null"}, r"u_emotion is the word 'null'; use None"),
        ({"a_topic": ("fine", "[")}, r"a_topic '\[' holds '\['"),
        ({"a_topic": "music"}, r"a_topic takes a list of labels, which may be empty, not 'music'"),
        ({"a_emotion": ("calm",)}, r"a_emotion takes one label or null, not \['calm'\]"),
    ],
)
def test_an_invalid_value_is_refused(values, error):
    with pytest.raises(ValueError, match=error):
        BlockGrammar.with_values(values)
