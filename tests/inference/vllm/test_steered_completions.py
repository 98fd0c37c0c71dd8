"""Steering on a server without the logits processor, against the same steering in process."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from block_writers import END, SPARE

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Sample
from sage_dialog.sac import Chain, Intent, parse, render
from sage_dialog.sac.grammar import BlockGrammar

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DynamicCache  # noqa: E402

from sage_dialog.inference.steering import Guide, GuideState  # noqa: E402
from sage_dialog.inference.transformers.decoding import (  # noqa: E402
    apply_repetition_penalty,
    apply_steering,
    decode,
    draw,
)
from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402
from sage_dialog.inference.vllm.steered_completions import (  # noqa: E402
    MAX_BIAS,
    MAX_REDRAWS,
    Completion,
    processor_arguments,
    steered_sample,
)
from sage_dialog.inference.vocabulary import Vocabulary  # noqa: E402

SAMPLING = SamplingConfig.from_base(temperature=1.2, top_k=40, repetition_penalty=1.01, max_new_tokens=100)
BOOSTS: dict[str, dict[str, dict[str, float]]] = {
    "a label": {"a_motivation": {"humor": 2.0, "seeking advice": 3.0}},
    "topics": {"a_topic": {"dogs": 2.0, "family dinner": 3.0}},
    "several": {"u_topic": {"music": 2.0}, "u_emotion": {"calm": -2.0}, "a_motivation": {"humor": 1.5}},
    "the first field": {"u_motivation": {"humility": 2.0}},
}


@pytest.fixture(scope="module", params=["words", "merged", "pieces"])
def engine(request: pytest.FixtureRequest, block_policy: Callable[[str], Policy]) -> TransformersEngine:
    return TransformersEngine(block_policy(request.param), [], 0, threads=1)


class Served:
    """A server of the engine's model, which draws with given uniform numbers, one for each position of a reply."""

    def __init__(self, engine: TransformersEngine, sampling: SamplingConfig, stops: bool = True) -> None:
        self.model, self.tokenizer = engine._model, engine._policies.tokenizer
        self.sampling, self.stops = sampling, stops
        self.prompt: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], add_generation_prompt=True
        )["input_ids"]
        self.guide: Callable[[Steering], Guide] = lambda steering: Guide(
            Vocabulary(self.tokenizer), steering, END, self.model.config.vocab_size
        )

    def text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def sample(self, guide: Guide, draws: np.ndarray, on_text: Callable[[str], None] | None = None) -> Sample:
        self.draws, self.requests, self.drawn = draws, list[dict[str, Any]](), 0
        return asyncio.run(steered_sample(self.complete, guide, self.prompt, self.sampling, int, self.text, on_text))

    async def complete(self, prompt: Sequence[int], **fields: Any) -> Completion:
        self.requests.append(fields)
        tokens, written, cache = list(prompt), list[int](), DynamicCache()
        reply = tokens[len(self.prompt) :]
        while len(written) < fields["max_tokens"]:
            token = self._draw_token(tokens, cache, **fields)
            self.drawn += 1
            if token == END:
                return self._complete(reply, written, "end", fields)
            tokens.append(token)
            written.append(token)
            if self.stops and fields["stop"] and fields["stop"] in self.text(tokens[len(prompt) :]):
                return self._complete(reply, written, "stop", fields)
        return self._complete(reply, written, "length", fields)

    def _complete(self, reply: list[int], written: list[int], finish: Any, fields: dict[str, Any]) -> Completion:
        if fields["on_text"]:
            fields["on_text"](self.text([*reply, *written])[len(self.text(reply)) :])
        return Completion(written, finish)

    @torch.inference_mode()
    def _draw_token(self, tokens: list[int], cache: Any, **fields: Any) -> int:
        fresh = torch.tensor([tokens[cache.get_seq_length() :]])
        logits = self.model(fresh, past_key_values=cache, use_cache=True).logits[:, -1].clone()
        seen = torch.zeros(logits.shape, dtype=torch.bool)
        seen[0, tokens] = True
        logits = apply_repetition_penalty(logits, seen, self.sampling.repetition_penalty)
        for token, bias in fields["logit_bias"].items():
            assert abs(bias) <= MAX_BIAS
            logits[0, token] += bias
        if fields["allowed"] is not None:
            bars = torch.full_like(logits, -math.inf)
            bars[0, fields["allowed"]] = 0
            logits = logits + bars
        uniform = torch.tensor([self.draws[len(tokens) - len(self.prompt)]])
        return int(draw(logits, seen, uniform, self.sampling.model_copy(update={"repetition_penalty": 1.0})))


def draws_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).random(SAMPLING.max_new_tokens)


# --- boosts ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("boosts", "stops", "scale"),
    [*((name, True, "log_odds") for name in BOOSTS), ("several", False, "log_odds"), ("several", True, "logits")],
)
def test_equal_numbers_draw_the_tokens_that_are_drawn_in_process(
    engine: TransformersEngine, boosts: str, stops: bool, scale: Any
) -> None:
    served = Served(engine, SAMPLING, stops)
    guide = served.guide(Steering(boosts=BOOSTS[boosts], boost_scale=scale))
    draws = np.stack([draws_of(number) for number in range(4)])
    rows = decode(served.model, [served.prompt], draws[None], served.sampling, END, guide)[0]
    plain = decode(served.model, [served.prompt], draws[None], served.sampling, END)[0]
    assert [row.tokens for row in rows] != [row.tokens for row in plain]  # else this would show nothing
    for row, numbers in zip(rows, draws, strict=True):
        sample = served.sample(guide, numbers)
        assert (sample.text, sample.tokens) == (served.text(row.tokens), len(row.tokens))
        assert sample.finished == row.finished


def test_the_limit_on_tokens_cuts_a_reply_where_it_does_in_process(engine: TransformersEngine) -> None:
    for limit in (1, 17, 30, 45):
        served = Served(engine, SAMPLING.model_copy(update={"max_new_tokens": limit}))
        guide = served.guide(Steering(boosts=BOOSTS["several"]))
        row = decode(served.model, [served.prompt], draws_of(0)[None, None, :limit], served.sampling, END, guide)[0][0]
        sample = served.sample(guide, draws_of(0))
        assert (sample.text, sample.finished) == (served.text(row.tokens), row.finished)


@pytest.mark.parametrize(
    ("steering", "requests"),
    [
        (Steering(boosts={"a_motivation": {"humor": 8.0}}), 4),
        (Steering(boosts={"a_topic": {"dogs": 8.0}}), 6),
        (Steering(fixed={"a_motivation": "humor"}), 3),
        (Steering(fixed={"u_motivation": "humor", "u_emotion": "calm", "u_topic": ()}), 2),
    ],
)
def test_a_reply_takes_few_requests_and_few_tokens_more_than_it_has(
    request: pytest.FixtureRequest, engine: TransformersEngine, steering: Steering, requests: int
) -> None:
    if "merged" in request.node.name:
        pytest.skip("its tokens cross all boundaries, unlike those of any model")
    served = Served(engine, SAMPLING)
    guide = served.guide(steering)
    counts, drawn, tokens = [], 0, 0
    for number in range(5):
        tokens += served.sample(guide, draws_of(number)).tokens
        counts.append(len(served.requests))
        drawn += served.drawn
    assert sorted(counts)[2] <= requests, counts
    assert drawn <= 1.25 * tokens


def test_the_seed_of_a_request_is_its_number(engine: TransformersEngine) -> None:
    served = Served(engine, SAMPLING)
    first, requests = served.sample(served.guide(Steering(boosts=BOOSTS["several"])), draws_of(3)), served.requests
    assert [request["seed"] for request in requests] == list(range(len(requests)))
    assert served.sample(served.guide(Steering(boosts=BOOSTS["several"])), draws_of(3)) == first
    assert served.requests == requests


@pytest.mark.parametrize("boosts", ["the first field", "topics"])
def test_streaming_changes_no_request(engine: TransformersEngine, boosts: str) -> None:
    """Each request has its own seed, so that an additional request would change the reply."""
    served = Served(engine, SAMPLING)
    guide = served.guide(Steering(boosts=BOOSTS[boosts]))
    served.sample(guide, draws_of(0))
    without_streaming = served.requests
    served.sample(guide, draws_of(0), [].append)
    assert [request | {"on_text": None} for request in served.requests] == without_streaming


def test_the_streamed_text_is_the_text(engine: TransformersEngine) -> None:
    served = Served(engine, SAMPLING)
    for steering in (Steering(boosts=BOOSTS["a label"]), Steering(fixed={"u_topic": ("dogs",)})):
        for number in range(2):
            pieces: list[str] = []
            sample = served.sample(served.guide(steering), draws_of(number), pieces.append)
            assert "".join(pieces) == sample.text
            if isinstance(chain := parse(sample.text), Chain) and len(chain.utterance) > 5:
                assert len(pieces) == 2


def test_no_partial_letter_is_streamed(byte_vocabulary: Vocabulary) -> None:
    text = render(Chain(Intent(), Intent("humor"), "ß!"))
    tokens = [token for token, _, _ in byte_vocabulary.encode(text)]
    guide = Guide(byte_vocabulary, Steering(fixed={"a_motivation": "humor"}), END, len(byte_vocabulary.tokens))
    pieces: list[str] = []

    async def complete(prompt: Sequence[int], **fields: Any) -> Completion:
        """Stop within the letter after the blocks."""
        rest = tokens[len(prompt) :]
        if fields["on_text"]:
            fields["on_text"](decoded(rest))
            return Completion(rest, "end")
        return Completion(rest[:1] if fields["max_tokens"] == 1 else rest[:-2], "stop")

    def decoded(tokens: list[int]) -> str:
        return b"".join(byte_vocabulary.tokens[token] for token in tokens).decode(errors="replace")

    sampling = SamplingConfig.from_base(max_new_tokens=200, top_k=100)
    sample = asyncio.run(steered_sample(complete, guide, [], sampling, int, decoded, pieces.append))
    assert sample.text == text
    assert pieces == [text[:-1], "!"]


# --- fixed values ------------------------------------------------------------------------------------------

FIXED_VALUES: dict[str, dict[str, Any]] = {
    "a label": {"a_motivation": "humor"},
    "a label never seen": {"u_emotion": "zébra ☂"},
    "null and topics": {"u_motivation": None, "a_topic": ("dogs", "zébra crossing", "dogs")},
    "all": {
        f"{who}_{name}": ("cats", "teasing") if name == "topic" else "teasing"
        for who in "ua"
        for name in ("motivation", "emotion", "topic")
    },
}


@pytest.mark.parametrize("fixed", FIXED_VALUES.values(), ids=FIXED_VALUES)
def test_fixed_values_are_always_written_and_the_message_parses(
    engine: TransformersEngine, fixed: dict[str, Any]
) -> None:
    served = Served(engine, SAMPLING)
    guide = served.guide(Steering(fixed=fixed))
    samples = [served.sample(guide, draws_of(number)) for number in range(4)]
    for sample in samples:
        assert BlockGrammar.with_values(fixed).initial_state().advance(sample.text), sample.text
        assert not sample.finished or isinstance(parse(sample.text), Chain)
    assert sum(sample.finished for sample in samples) >= 2


def test_fixed_text_uses_the_tokenizers_own_tokens(engine: TransformersEngine) -> None:
    served = Served(engine, SAMPLING)
    guide = served.guide(Steering(fixed=FIXED_VALUES["all"]))
    served.sample(guide, draws_of(0))
    state: GuideState | None = guide.initial_state
    forced = []
    while state is not None and state.forced_token is not None:
        forced.append(state.forced_token)
        state = guide.next_state(state, state.forced_token)
    assert len(forced) > 10
    assert SAMPLING.max_new_tokens - served.requests[0]["max_tokens"] == len(forced)  # none of them was requested


class Table:
    """A server whose model has the same odds at every position, with the probability of each reply.

    `probabilities` enumerates all possible draws and sums the probability of each reply over them.
    """

    def __init__(self, odds: Mapping[int, float], size: int, temperature: float) -> None:
        self.logits = torch.full((size,), -60.0)
        for token, share in odds.items():
            self.logits[token] = temperature * math.log(share)
        self.temperature = temperature

    def law(self, logit_bias: Mapping[int, float], allowed: Sequence[int] | None) -> dict[int, float]:
        logits = self.logits.clone()
        for token, bias in logit_bias.items():
            logits[token] += bias
        law = (logits.double() / self.temperature).softmax(dim=0)
        possible = law.nonzero().flatten().tolist() if allowed is None else allowed
        whole = sum(float(law[token]) for token in possible)
        return {token: float(law[token]) / whole for token in possible if law[token] > 1e-9 * whole}

    def probabilities(self, guide: Guide, sampling: SamplingConfig) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        paths: list[list[int]] = [[]]  # the index of the outcome of each draw
        while paths:
            text, probability = self._reply(guide, sampling, paths.pop(), paths)
            found[text] += probability
        return dict(found)

    def _reply(
        self, guide: Guide, sampling: SamplingConfig, path: list[int], paths: list[list[int]]
    ) -> tuple[str, float]:
        """Return the reply and probability of one path of draws; append the paths that branch off after its end."""
        shares: list[float] = []

        async def complete(prompt: Sequence[int], **fields: Any) -> Completion:
            tokens: list[int] = []
            while len(tokens) < fields["max_tokens"]:
                law = self.law(fields["logit_bias"], fields["allowed"])
                outcomes = sorted(law)
                if len(shares) == len(path):
                    paths.extend([*path, other] for other in range(1, len(outcomes)))
                    path.append(0)
                token = outcomes[path[len(shares)]]
                shares.append(law[token])
                if token == END:
                    return Completion(tokens, "end")
                tokens.append(token)
            return Completion(tokens, "length")

        sample = asyncio.run(steered_sample(complete, guide, [1], sampling, int, str))
        return sample.text + sample.finish_reason, math.prod(shares)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_free_values_within_the_form_have_the_probabilities_that_they_have_in_process(
    byte_vocabulary: Vocabulary, temperature: float
) -> None:
    """Exact: all draws are enumerated, discarded and repeated ones included."""
    size = len(byte_vocabulary.tokens) + SPARE
    steering = Steering(fixed={"u_motivation": "calm"}, boosts={"u_emotion": {"sad": 1.0, "so": -0.5}})
    guide = Guide(byte_vocabulary, steering, END, size)
    token = {written: number for number, written in enumerate(byte_vocabulary.tokens)}
    odds = {token[b"s"]: 3.0, token[b"a"]: 1.0, token[b","]: 1.5, END: 2.5}
    table = Table(odds, size, temperature)
    prefix = len("{u_motivation: calm, u_emotion: ")
    sampling = SamplingConfig.from_base(temperature=temperature, top_k=1000, max_new_tokens=prefix + 2)

    expected: dict[str, float] = {}
    state: GuideState | None = guide.initial_state
    for byte in b"{u_motivation: calm, u_emotion: ":
        assert state is not None
        assert state.forced_token == token[bytes([byte])]
        state = guide.next_state(state, state.forced_token)

    def extend(state: GuideState | None, tokens: list[int], probability: float) -> None:
        if len(tokens) == sampling.max_new_tokens:
            expected[f"{tokens}length"] = probability
            return
        logits = apply_steering(table.logits[None], [state], temperature)[0] / temperature
        for drawn, share in enumerate(logits.double().softmax(dim=0).tolist()):
            if share > 1e-9:
                assert drawn != END
                extend(state and guide.next_state(state, drawn), [*tokens, drawn], probability * share)

    extend(state, [token[bytes([byte])] for byte in b"{u_motivation: calm, u_emotion: "], 1.0)
    found = table.probabilities(guide, sampling)
    assert sum(found.values()) == pytest.approx(1)
    assert len(expected) > 4
    assert found == pytest.approx(expected, abs=1e-7)


def test_after_repeated_forbidden_tokens_the_allowed_tokens_are_listed(byte_vocabulary: Vocabulary) -> None:
    size = len(byte_vocabulary.tokens) + SPARE
    guide = Guide(byte_vocabulary, Steering(fixed={"u_motivation": "calm"}), END, size)
    prefix = len("{u_motivation: calm, u_emotion: ")
    requests = Counter[str]()
    obeys = True

    async def complete(prompt: Sequence[int], **request: Any) -> Completion:
        """Draw the first token without a bias: control characters, which no label may contain."""
        requests["requests"] += 1
        if obeys and request["allowed"]:
            requests["allowed"] += 1
            return Completion([request["allowed"][0]], "length")
        return Completion([next(token for token in range(200, 256) if token not in request["logit_bias"])], "length")

    controls = [token for token in range(200, 256) if byte_vocabulary.tokens[token] < b" "]
    assert len(controls) > MAX_REDRAWS
    sampling = SamplingConfig.from_base(max_new_tokens=prefix + 1, top_k=100)
    sample = asyncio.run(steered_sample(complete, guide, [1], sampling, int, str))
    assert requests == {"requests": MAX_REDRAWS + 1, "allowed": 1}
    assert sample.tokens == prefix + 1
    obeys = False
    with pytest.raises(ValueError, match="which is not among the allowed tokens"):
        asyncio.run(steered_sample(complete, guide, [1], sampling, int, str))


def test_a_server_without_token_ids_is_refused(byte_vocabulary: Vocabulary) -> None:
    async def complete(prompt: Sequence[int], **fields: Any) -> Completion:
        return Completion([], "stop")

    guide = Guide(byte_vocabulary, Steering(boosts={"a_motivation": {"humor": 1.0}}), END, len(byte_vocabulary.tokens))
    with pytest.raises(ValueError, match="steering needs the ids of all tokens"):
        asyncio.run(steered_sample(complete, guide, [1], SAMPLING, int, str))


def test_the_steering_is_a_field_of_the_request() -> None:
    steering = Steering(boosts={"a_topic": {"dogs": 2.0}}, fixed={"a_emotion": None, "u_topic": ()})
    field = processor_arguments(steering)["sage_steering"]
    assert Steering.model_validate_json(field) == steering
    assert "boost_scale" not in field  # servers of earlier versions refuse it
    raw = Steering(boosts={"a_topic": {"dogs": 2.0}}, boost_scale="logits")
    assert Steering.model_validate_json(processor_arguments(raw)["sage_steering"]) == raw


def test_the_bias_of_a_boost_is_on_its_scale(byte_vocabulary: Vocabulary) -> None:
    sampling, biases = SamplingConfig.from_base(temperature=1.1), {}

    async def complete(prompt: Sequence[int], **fields: Any) -> Completion:
        if fields["logit_bias"]:
            biases[scale] = set(fields["logit_bias"].values())
            raise InterruptedError
        text = "{u_motivation: sad, u_emotion: sad, u_topic: []} {a_motivation: "
        return Completion([token for token, _, _ in byte_vocabulary.encode(text)], "stop")

    scale: Any
    for scale in ("log_odds", "logits"):
        steering = Steering(boosts={"a_motivation": {"humor": 1.0}}, boost_scale=scale)
        guide = Guide(byte_vocabulary, steering, END, len(byte_vocabulary.tokens))
        with pytest.raises(InterruptedError):
            asyncio.run(steered_sample(complete, guide, [1], sampling, int, str))
    assert biases == {"log_odds": {1.1}, "logits": {1.0}}
