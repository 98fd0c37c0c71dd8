"""Steering of small models that write blocks, with three kinds of tokenizers."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, get_args

import pytest
from block_writers import (
    END,
    SPARE,
    TEMPLATE,
    random_chain,
)

from sage_dialog.config import BlockField, SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Prompt, Sample
from sage_dialog.sac import Chain, Intent, parse, render
from sage_dialog.sac.grammar import FIELDS, BlockGrammar

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sage_dialog.inference.steering import Guide, GuideState  # noqa: E402
from sage_dialog.inference.transformers import decoding  # noqa: E402
from sage_dialog.inference.transformers import engine as transformers_engine  # noqa: E402
from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402
from sage_dialog.inference.vocabulary import Vocabulary  # noqa: E402

SAMPLING = SamplingConfig.from_base(temperature=1.0, top_k=1000, max_new_tokens=100)


def prompts_of(count: int) -> list[Prompt]:
    return [Prompt(({"role": "user", "content": "x" * (1 + number % 3)},), ("test", number)) for number in range(count)]


def sample_replies(
    engine: TransformersEngine, steering: Steering | None, prompts: int = 6, samples: int = 6
) -> list[Sample]:
    replies = engine.sample("sage_1", prompts_of(prompts), SAMPLING, samples, steering)
    return [sample for row in replies for sample in row]


def value(chain: Chain, field: str) -> Any:
    intent = chain.state if field.startswith("u_") else chain.action
    return {"motivation": intent.motivation, "emotion": intent.emotion, "topic": intent.topics}[field[2:]]


def message_with(field: str, label: str, topics: tuple[str, ...] = ()) -> str:
    """Return a message with the label in a field; in a list, after other topics."""
    values = dict.fromkeys(FIELDS, "sad") | {field: ", ".join((*topics, label))}
    return BlockGrammar.with_values({}).render(values, "Why?")


def guide_of(vocabulary: Vocabulary, **steering: Any) -> Guide:
    return Guide(vocabulary, Steering(**steering), END, len(vocabulary.tokens) + SPARE)


def steps_of(guide: Guide, vocabulary: Vocabulary, text: str) -> list[tuple[dict[int, float], int, int, int]]:
    """Return (boosts, token, begin, end) at each token of a tokenized text."""
    steps, state = [], guide.initial_state
    for token, begin, end in vocabulary.encode(text):
        boosts = {} if state is None else dict(zip(state.tokens, state.weights, strict=True))
        steps.append((boosts, token, begin, end))
        state = state and guide.next_state(state, token)
    return steps


def test_the_parameter_names_the_fields_of_the_form() -> None:
    assert get_args(BlockField) == FIELDS


def test_the_models_write_valid_blocks_with_all_values(engine: TransformersEngine) -> None:
    """A condition of the tests below."""
    chains = [chain for sample in sample_replies(engine, None) if isinstance(chain := parse(sample.text), Chain)]
    assert len(chains) > 20
    assert len({value(chain, "a_motivation") for chain in chains}) >= 4


# --- which tokens are boosted ------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["humor", "seeking advice", "zébra ☂", "family dinner"])
@pytest.mark.parametrize("field", FIELDS)
def test_every_token_of_a_keyword_is_boosted_in_its_field_and_nothing_else_is(
    vocabulary: Vocabulary, field: str, keyword: str
) -> None:
    guide = guide_of(vocabulary, boosts={field: {keyword: 3.0}})
    for topics in ((), ("cats",), ("cats", "dogs")) if field.endswith("topic") else ((),):
        text = message_with(field, keyword, topics)
        start = len(text[: text.index(keyword)].encode())
        stop = start + len(keyword.encode())
        steps = steps_of(guide, vocabulary, text)
        assert (
            b"".join(vocabulary.token_bytes(token, state == 0) for state, (_, token, _, _) in enumerate(steps)).decode()
            == text
        )
        for boosts, token, begin, end in steps:
            assert (token in boosts) == (begin < stop and end > start), (text, vocabulary.tokens[token])
            assert set(boosts.values()) <= {3.0}


def test_a_keyword_is_boosted_in_no_other_field_and_not_in_the_utterance(vocabulary: Vocabulary) -> None:
    guide = guide_of(vocabulary, boosts={"a_motivation": {"humor": 3.0}})
    everywhere = Intent("humor", "humor", ("humor", "x"))
    text = render(Chain(everywhere, Intent("calm", "humor", ("humor",)), "humor, humor"))
    from_here, to_here = text.index("]} {a_motivation"), text.index(", a_emotion")
    steps = steps_of(guide, vocabulary, text)
    assert all(from_here <= begin < to_here for boosts, _, begin, _ in steps if boosts)
    assert any(boosts for boosts, _, _, _ in steps)


def test_a_topic_that_the_list_holds_is_not_boosted_twice(vocabulary: Vocabulary) -> None:
    guide = guide_of(vocabulary, boosts={"a_topic": {"dogs": 3.0, "music": 2.0}})
    text = message_with("a_topic", "dogs", ("cats", "dogs"))
    repeated = text.rindex("dogs")
    steps = steps_of(guide, vocabulary, text)
    assert [
        boosts
        for boosts, token, begin, end in steps
        if begin < repeated + 4 and end > repeated and 3.0 in boosts.values()
    ] == []
    first = text.index("dogs")
    assert all(boosts[token] == 3.0 for boosts, token, begin, end in steps if begin < first + 4 and end > first)
    other = steps_of(guide, vocabulary, message_with("a_topic", "music", ("cats", "dogs")))
    assert 2.0 in {boosts.get(token) for boosts, token, _, _ in other}


def state_after(guide: Guide, vocabulary: Vocabulary, text: str) -> GuideState | None:
    """Return the state after a text; None where no more tokens are steered."""
    state: GuideState | None = guide.initial_state
    for token, _, _ in vocabulary.encode(text):
        assert state is not None
        state = guide.next_state(state, token)
    return state


def boosts_after(guide: Guide, vocabulary: Vocabulary, text: str) -> dict[str, float]:
    """Return the weights of the boosted tokens after a text, by their bytes."""
    state = state_after(guide, vocabulary, text)
    if state is None:
        return {}
    tokens = (vocabulary.tokens[token].decode() for token in state.tokens)
    return dict(zip(tokens, state.weights, strict=True))


def test_keywords_with_a_common_beginning_share_the_largest_weight_within_it(byte_vocabulary: Vocabulary) -> None:
    keywords = {"humor": 4.0, "humility": 2.0, "hug": -1.0, "humor me": 1.0}
    guide = guide_of(byte_vocabulary, boosts={"a_motivation": keywords})
    before = message_with("a_motivation", "")[: message_with("a_motivation", "").index(", a_emotion")]
    expected = {
        "": {"h": 4.0},
        "h": {"u": 4.0},
        "hu": {"m": 4.0, "g": -1.0},
        "hum": {"o": 4.0, "i": 2.0},
        "humi": {"l": 2.0},
        "humor": {" ": 1.0},
        "humor m": {"e": 1.0},
        "humor me": {},
        "xhu": {},
        "humor me, a_emotion: ": {},
    }
    assert {text: boosts_after(guide, byte_vocabulary, before + text) for text in expected} == expected


def test_a_piece_is_boosted_only_after_the_pieces_before_it(byte_vocabulary: Vocabulary) -> None:
    guide = guide_of(byte_vocabulary, boosts={"a_topic": {"music": 1.0}})
    before = "{u_motivation: null, u_emotion: null, u_topic: []} {a_motivation: null, a_emotion: null, a_topic: ["
    boosted = {
        text: boosts_after(guide, byte_vocabulary, before + text)
        for text in ("", "m", "musi", "s", "usi", "dogs, ", "dogs")
    }
    assert boosted == {
        "": {"m": 1.0},
        "m": {"u": 1.0},
        "musi": {"c": 1.0},
        "s": {},
        "usi": {},
        "dogs, ": {"m": 1.0},
        "dogs": {},
    }


def test_a_word_that_the_tokenizer_cannot_write_is_named(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ascii_only = {"<end>": END, "?": 1} | {chr(code): code for code in range(33, 127)} | {"Ġ": 200}
    tokenizer = Tokenizer(models.BPE(ascii_only, [], unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary = Vocabulary(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", chat_template=TEMPLATE)
    )
    guide_of(vocabulary, boosts={"a_motivation": {"humor": 1.0}})
    for steering in ({"boosts": {"a_motivation": {"humór": 1.0}}}, {"fixed": {"a_motivation": "humór"}}):
        with pytest.raises(ValueError, match=r"the policy's tokenizer makes .*hum.*r.* of .*humór"):
            guide_of(vocabulary, **steering)


# --- how strong a boost is ---------------------------------------------------------------------------------


def shares(
    logits: torch.Tensor, seen: torch.Tensor, sampling: SamplingConfig, state: GuideState | None
) -> torch.Tensor:
    """Return the share of each token, over a fine grid of uniform numbers."""
    draws = 5000
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    states = None if state is None else [state] * draws
    tokens = decoding.draw(logits.expand(draws, -1), seen.expand(draws, -1), uniform, sampling, states)
    return torch.bincount(tokens, minlength=logits.shape[1]) / draws


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig.from_base(temperature=1.0, top_k=1000),
        SamplingConfig.from_base(temperature=0.5, top_k=1000, repetition_penalty=1.3),
        SamplingConfig.from_base(temperature=2.5, top_k=6, repetition_penalty=1.1),
        SamplingConfig.from_base(temperature=1.1, top_k=3),
    ],
)
@pytest.mark.parametrize("weights", [{"humor": 2.0}, {"humor": 4.0, "comfort": -3.0, "seeking advice": 1.5}])
@pytest.mark.parametrize("scale", ["log_odds", "logits"])
def test_the_log_odds_change_by_the_weight_at_any_temperature_and_the_logits_by_the_weight_before_it(
    byte_vocabulary: Vocabulary, sampling: SamplingConfig, weights: dict[str, float], scale: str
) -> None:
    guide = guide_of(byte_vocabulary, boosts={"a_motivation": weights}, boost_scale=scale)
    state = state_after(guide, byte_vocabulary, "{u_motivation: null, u_emotion: null, u_topic: []} {a_motivation: ")
    assert state is not None
    size = len(byte_vocabulary.tokens) + SPARE
    logits = 1.5 * torch.randn(1, size, generator=torch.Generator().manual_seed(3))
    seen = torch.zeros(1, size, dtype=torch.bool)
    seen[0, :60:3] = True

    penalised = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
    scores = torch.where(seen, penalised, logits)[0] / sampling.temperature
    for keyword, weight in weights.items():
        added = weight if scale == "log_odds" else weight / sampling.temperature
        scores[byte_vocabulary.tokens.index(keyword[0].encode())] += added
    kept = scores.topk(min(sampling.top_k, size)).indices
    expected = torch.zeros(size)
    expected[kept] = scores[kept].softmax(dim=0)
    assert torch.allclose(shares(logits, seen, sampling, state), expected, atol=5e-4)


def test_a_boost_lifts_a_token_into_the_top_k(byte_vocabulary: Vocabulary) -> None:
    guide = guide_of(byte_vocabulary, boosts={"u_motivation": {"humor": 30.0}})
    state = state_after(guide, byte_vocabulary, "{u_motivation: ")
    assert state is not None
    size = len(byte_vocabulary.tokens) + SPARE
    logits = torch.arange(size, dtype=torch.float32)[None].flip(1) / 10
    h = byte_vocabulary.tokens.index(b"h")
    assert h not in logits.topk(2).indices
    drawn = shares(logits, torch.zeros(1, size, dtype=torch.bool), SamplingConfig.from_base(top_k=2), state)
    assert drawn[h] > 0.99


def test_the_ends_of_the_unit_interval_draw_tokens_that_may_come(byte_vocabulary: Vocabulary) -> None:
    """Also if the last token of the vocabulary is forbidden, and fewer tokens are allowed than top-k keeps."""
    guide = guide_of(byte_vocabulary, fixed={"a_emotion": "calm"})
    size = len(byte_vocabulary.tokens) + SPARE
    state: GuideState | None = guide.initial_state
    for text in ("{", "u"):
        assert state is not None
        logits = torch.randn(2, size, generator=torch.Generator().manual_seed(1))
        ends = torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)
        drawn = decoding.draw(logits, torch.zeros(2, size, dtype=torch.bool), ends, SAMPLING, [state, state])
        assert [byte_vocabulary.tokens[token].decode() for token in drawn.tolist()] == [text, text]
        state = guide.next_state(state, int(drawn[0]))


def rate(samples: list[Sample], field: str, wanted: str) -> float:
    chains = [chain for sample in samples if isinstance(chain := parse(sample.text), Chain)]
    assert len(chains) > 0.6 * len(samples)
    return sum(value(chain, field) == wanted for chain in chains) / len(chains)


@pytest.mark.parametrize(("field", "keyword"), [("a_motivation", "humility"), ("u_emotion", "calm")])
def test_a_boosted_keyword_is_more_frequent_and_earlier_fields_are_unchanged(
    engine: TransformersEngine, field: str, keyword: str
) -> None:
    plain = sample_replies(engine, None)
    weakly_boosted = sample_replies(engine, Steering(boosts={field: {keyword: 2.0}}))
    strongly_boosted = sample_replies(engine, Steering(boosts={field: {keyword: 9.0}}))
    assert rate(plain, field, keyword) < rate(weakly_boosted, field, keyword) < rate(strongly_boosted, field, keyword)
    assert rate(strongly_boosted, field, keyword) > 0.95
    for one, other in zip(plain, strongly_boosted, strict=True):
        assert one.text.split(f"{field}:")[0] == other.text.split(f"{field}:")[0]


def test_without_steering_nothing_changes(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sample_replies(engine, None)
    assert sample_replies(engine, Steering(boosts={field: {"humor": 0.0} for field in FIELDS})) == plain
    monkeypatch.delattr(decoding, "apply_steering")
    assert sample_replies(engine, Steering()) == plain
    assert sample_replies(engine, Steering(boosts={"a_motivation": {}})) == plain


# --- fixed values ------------------------------------------------------------------------------------------

FIXED_VALUES: dict[str, dict[str, Any]] = {
    "a label": {"a_motivation": "humor"},
    "a label never seen": {"u_emotion": "zébra ☂"},
    "null": {"u_motivation": None, "a_emotion": None},
    "topics": {"a_topic": ("dogs", "zébra crossing", "dogs"), "u_topic": ("music",)},
    "no topics": {"u_topic": (), "a_topic": ()},
    "all": {field: ("cats", "teasing") if field.endswith("topic") else "teasing" for field in FIELDS},
}


@pytest.mark.parametrize("given", FIXED_VALUES.values(), ids=FIXED_VALUES)
def test_fixed_values_are_always_written_and_the_message_parses(
    engine: TransformersEngine, given: dict[str, Any]
) -> None:
    samples = sample_replies(engine, Steering(fixed=given), prompts=4)
    grammar = BlockGrammar.with_values(given)
    assert all(
        grammar.initial_state().advance(sample.text) for sample in samples
    )  # also replies cut at the token limit
    chains = [parse(sample.text) for sample in samples if sample.finished]
    assert chains
    for chain in chains:
        assert isinstance(chain, Chain)
        assert {field: value(chain, field) for field in given} == given


@pytest.mark.parametrize(("temperature", "top_k", "penalty"), [(0.3, 1, 1.0), (2.5, 1000, 1.0), (1.1, 20, 1.8)])
def test_fixed_values_are_written_with_any_sampling(
    engine: TransformersEngine, temperature: float, top_k: int, penalty: float
) -> None:
    given = {"u_emotion": "calm", "a_motivation": "teasing", "a_topic": ("cats", "music")}
    sampling = SamplingConfig.from_base(
        temperature=temperature, top_k=top_k, repetition_penalty=penalty, max_new_tokens=100
    )
    rows = engine.sample("sage_1", prompts_of(2), sampling, 8, Steering(fixed=given))
    grammar = BlockGrammar.with_values(given)
    assert all(grammar.initial_state().advance(sample.text) for row in rows for sample in row)
    assert any("teasing" in sample.text for row in rows for sample in row)


def test_fixed_text_uses_the_tokenizers_own_tokens(
    engine: TransformersEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[list[int]] = []

    def recorded(*arguments: Any) -> Any:
        decoded = decoding.decode(*arguments)
        rows.extend(row.tokens for reply in decoded for row in reply)
        return decoded

    monkeypatch.setattr(transformers_engine, "decode", recorded)
    texts = [sample.text for sample in sample_replies(engine, Steering(fixed=FIXED_VALUES["all"]), prompts=2)]
    stop = len(BlockGrammar.with_values(FIXED_VALUES["all"]).literals[0]) - len(
        "]} "
    )  # from there on a token may hold the utterance too
    for text, row in zip(texts, rows, strict=True):
        own = [token for token, _, end in vocabulary.encode(text) if end <= stop]
        assert row[: len(own)] == own


@pytest.mark.parametrize("given", FIXED_VALUES.values(), ids=FIXED_VALUES)
def test_every_message_with_the_fixed_values_remains_possible(vocabulary: Vocabulary, given: dict[str, Any]) -> None:
    guide = guide_of(vocabulary, fixed=given)
    for number in range(20):
        chain = random_chain(random.Random(number))
        texts = {field: value(chain, field) for field in FIELDS} | given
        free = {field: ", ".join(it) if isinstance(it, tuple) else it or "null" for field, it in texts.items()}
        state: GuideState | None = guide.initial_state
        for token, _, _ in vocabulary.encode(BlockGrammar.with_values({}).render(free, chain.utterance)):
            if state is not None:
                assert state.mask is not None
                assert state.mask[token] == 0, vocabulary.tokens[token]
                state = guide.next_state(state, token)


def test_a_free_label_may_be_any_label(byte_vocabulary: Vocabulary) -> None:
    guide = guide_of(byte_vocabulary, fixed={"a_emotion": "calm"})

    def allowed(text: str) -> set[str]:
        state = state_after(guide, byte_vocabulary, text)
        assert state is not None
        assert state.mask is not None
        tokens = (state.mask == 0).nonzero()[0].tolist()
        return {"END" if token == END else byte_vocabulary.tokens[token].decode("latin-1") for token in tokens}

    bytes_of_labels = {chr(byte) for byte in range(32, 256) if byte != 127} - set("{}[],:")
    assert allowed("{u_motivation: ") == bytes_of_labels - {" "}
    assert allowed("{u_motivation: a") == bytes_of_labels | {","}
    assert allowed("{u_motivation: a ") == bytes_of_labels
    assert allowed("{u_motivation: null") == bytes_of_labels | {","}
    assert allowed("{u_motivation: null, u") == {"_"}
    topics = "{u_motivation: null, u_emotion: a, u_topic: ["
    assert allowed(topics) == bytes_of_labels - {" "} | {"]"}
    assert allowed(topics + "null") == bytes_of_labels
    assert allowed(topics + "a,") == {" "}
    assert allowed(topics + "a, ") == bytes_of_labels - {" "}
    action = topics + "]} {a_motivation: x"
    assert allowed(action + ",") == {" "}
    assert allowed(action + ", a_emotion: calm, a_topic: [a]}") == {" ", "END"}


# --- in the engine -----------------------------------------------------------------------------------------

BOTH = Steering(boosts={"a_topic": {"dogs": 2.0, "new": 3.0}, "u_emotion": {"calm": 1.0}}, fixed={"a_emotion": "sad"})


@pytest.mark.slow
def test_a_steered_sample_depends_on_seed_item_and_its_index_alone(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(16)
    together = engine.sample("sage_1", prompts, SAMPLING, 3, BOTH)
    assert [engine.sample("sage_1", [prompt], SAMPLING, 3, BOTH)[0] for prompt in prompts[:4]] == together[:4]
    assert engine.sample("sage_1", prompts[4:8][::-1], SAMPLING, 3, BOTH)[::-1] == together[4:8]
    monkeypatch.setattr(transformers_engine, "MEMORY_GB", 1e-9)
    assert engine.sample("sage_1", prompts, SAMPLING, 3, BOTH) == together


def test_rows_that_end_early_leave_the_others_their_places(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts_seen = []
    steered = decoding.apply_steering

    def recorded(logits: torch.Tensor, states: list[GuideState | None], temperature: float) -> torch.Tensor:
        texts_seen.append(len(states))
        return steered(logits, states, temperature)

    expected = sample_replies(engine, BOTH)
    monkeypatch.setattr(decoding, "COMPACT_BELOW", 1.0)
    monkeypatch.setattr(decoding, "apply_steering", recorded)
    assert sample_replies(engine, BOTH) == expected
    assert texts_seen[-1] < max(texts_seen)  # some were dropped while others still wrote their blocks


def test_one_steering_after_another(engine: TransformersEngine) -> None:
    first = sample_replies(engine, BOTH, prompts=2)
    other = sample_replies(engine, Steering(fixed={"a_emotion": "calm"}), prompts=2)
    assert sample_replies(engine, BOTH, prompts=2) == first != other


def test_a_policy_without_blocks_is_not_steered(base: Policy) -> None:
    engine = TransformersEngine(base, [], seed=0, threads=1)
    prompts = [Prompt(({"role": "user", "content": "w1"},), ("x",))]
    with pytest.raises(ValueError, match="policy 'sage_0' writes no state and action blocks, so there is nothing to"):
        engine.sample("sage_0", prompts, SAMPLING, 1, BOTH)
    small = SAMPLING.model_copy(update={"max_new_tokens": 4})
    assert len(engine.sample("sage_0", prompts, small, 1, Steering())[0]) == 1


# --- the parameter -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        ({"boosts": {"motivation": {"humor": 1}}}, "'a_motivation', 'a_emotion' or 'a_topic'"),
        ({"boosts": {"a_topic": {"a, b": 1}}}, "a_topic 'a, b' holds ',', which the text form reserves"),
        ({"boosts": {"a_topic": {"music": math.inf}}}, "finite number"),
        ({"fixed": {"a_topic": "music"}}, "a_topic takes a list of labels, which may be empty, not 'music'"),
        ({"fixed": {"a_emotion": "null"}}, "a_emotion is the word 'null'"),
        ({"fixed": {"a_emotion": "calm"}, "boosts": {"a_emotion": {"sad": 1}}}, "a_emotion is boosted and fixed"),
    ],
)
def test_an_invalid_steering_is_refused(steering: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Steering.model_validate(steering)


def test_lists_from_a_file_are_topics() -> None:
    steering = Steering.model_validate({"fixed": {"a_topic": ["music", "sport"], "a_emotion": None}})
    assert steering.fixed == {"a_topic": ("music", "sport"), "a_emotion": None}
    assert steering
    assert not Steering()
