"""The logits processor for vLLM, called as vLLM calls it, against the same steering in process.

vLLM's own classes are used if it is installed, else equivalents with the same attributes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from block_writers import END

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.sac import Chain, parse
from sage_dialog.sac.grammar import BlockGrammar

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from sage_dialog.inference.steering import Guide, GuideState  # noqa: E402
from sage_dialog.inference.transformers.decoding import (  # noqa: E402
    apply_repetition_penalty,
    apply_steering,
    decode,
    draw,
)
from sage_dialog.inference.transformers.shared_prefix import IMPLEMENTATION  # noqa: E402
from sage_dialog.inference.vllm.logits_processor import SteeringProcessor  # noqa: E402
from sage_dialog.inference.vllm.steered_completions import processor_arguments  # noqa: E402
from sage_dialog.inference.vocabulary import Vocabulary  # noqa: E402

try:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
except ImportError:

    class MoveDirectionality(Enum):  # type: ignore[no-redef]
        UNIDIRECTIONAL = auto()
        SWAP = auto()

    BatchUpdate = LogitsContext = LogitsProcRequestState = SimpleNamespace

    def SamplingParams(**fields: Any) -> Any:  # noqa: N802
        return SimpleNamespace(**{"temperature": 1.0, "repetition_penalty": 1.0, "extra_args": None, **fields})


LENGTH = 70
STEERINGS = (
    Steering(boosts={"a_motivation": {"humor": 3.0, "seeking advice": 1.0}, "u_topic": {"dogs": 2.0}}),
    Steering(fixed={"a_emotion": "zébra ☂", "u_topic": ("music", "dogs")}, boosts={"a_topic": {"cats": 2.0}}),
    None,
    Steering(fixed={"u_motivation": None}),
    Steering(),
)


@dataclass(frozen=True)
class Served:
    """A policy loaded on a server."""

    model: Any
    tokenizer: Any
    config: Any

    def processor(self, requests: Any) -> Any:
        return SteeringProcessor(self.config, requests)


@pytest.fixture(scope="module", params=["words", "pieces"])
def served(request: pytest.FixtureRequest, block_policy: Callable[[str], Policy]) -> Served:
    path = block_policy(request.param).path
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation=IMPLEMENTATION).eval()
    size = model.config.vocab_size
    model_config = SimpleNamespace(tokenizer=str(path), tokenizer_revision=None, get_vocab_size=lambda: size)
    config = SimpleNamespace(model_config=model_config, speculative_config=None)
    return Served(model, AutoTokenizer.from_pretrained(path), config)


@dataclass
class Request:
    """A request with its tokens so far and its uniform numbers."""

    number: int
    prompt: list[int]
    steering: Steering | None
    sampling: SamplingConfig
    draws: np.ndarray
    tokens: list[int] = field(default_factory=list)

    @property
    def params(self) -> Any:
        sampling = self.sampling
        guided = self.steering is not None or sampling.limits is not None
        extra_args = processor_arguments(self.steering, sampling.limits) if guided else None
        return SamplingParams(
            temperature=sampling.temperature, repetition_penalty=sampling.repetition_penalty, extra_args=extra_args
        )

    @property
    def finished(self) -> bool:
        return len(self.tokens) == LENGTH or self.tokens[-1:] == [END]


def requests_of(served: Served, number: int) -> list[Request]:
    """Return requests of several steerings, temperatures and penalties, some with a held form."""
    requests = []
    for index in range(number):
        messages = [{"role": "user", "content": "x" * (1 + index % 3)}]
        prompt = served.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        config = SamplingConfig.from_base(
            temperature=(0.8, 1.2)[index % 2], top_k=40, repetition_penalty=(1.0, 1.03)[index % 4 // 2]
        ).model_copy(update={"max_new_tokens": LENGTH, "hold_form": index % 4 == 3, "max_label_length": 8})
        draws = np.random.default_rng(index).random(LENGTH)
        requests.append(Request(index, prompt, STEERINGS[index % len(STEERINGS)], config, draws))
    return requests


def in_process(served: Served, request: Request) -> list[int]:
    guide = None
    limits = request.sampling.limits
    if request.steering or limits:
        vocabulary, size = Vocabulary(served.tokenizer), served.model.config.vocab_size
        guide = Guide(vocabulary, request.steering or Steering(), END, size, limits)
    row = decode(served.model, [request.prompt], request.draws[None, None], request.sampling, END, guide)[0][0]
    return [*row.tokens, *[END] * row.finished]


@torch.no_grad()
def logits_of(served: Served, requests: Sequence[Request]) -> Any:
    """Return the logits of the next token of every request (requests, vocabulary)."""
    token_rows = [[*request.prompt, *request.tokens] for request in requests]
    ids = torch.tensor([row + [END] * (max(map(len, token_rows)) - len(row)) for row in token_rows])
    logits = served.model(ids).logits
    return torch.stack([logits[row, len(tokens) - 1] for row, tokens in enumerate(token_rows)])


def draw_tokens(logits: Any, requests: Sequence[Request], penalise: bool) -> list[int]:
    """Draw a token for each request in vLLM's order; a penalty applied here comes after the processor."""
    tokens = []
    for row, request in enumerate(requests):
        seen = torch.zeros(1, logits.shape[1], dtype=torch.bool)
        seen[0, [*request.prompt, *request.tokens]] = True
        penalty = request.sampling.repetition_penalty if penalise else 1.0
        penalised = apply_repetition_penalty(logits[row : row + 1], seen, penalty)
        uniform = torch.tensor(request.draws[len(request.tokens)])[None]
        tokens.append(
            int(draw(penalised, seen, uniform, request.sampling.model_copy(update={"repetition_penalty": 1.0})))
        )
    return tokens


def play_on_runner_v1(served: Served, processor: Any, waiting: list[Request], room: int) -> None:
    """Run all requests through one batch of changing rows, like vLLM's InputBatch."""
    batch: list[Request] = []
    step = 0
    while waiting or batch:
        removed = [row for row, request in enumerate(batch) if request.finished]
        rows: dict[int, Request] = {row: request for row, request in enumerate(batch) if row not in removed}
        added, moved = [], []
        while waiting and len(rows) < room and (removed or step % 3 == 0):
            request = waiting.pop(0)
            row = removed.pop(0) if removed else len(rows)
            rows[row] = request
            added.append((row, request.params, request.prompt, request.tokens))
        free_rows = sorted(removed)
        while free_rows and max(rows, default=-1) > free_rows[0]:  # the last row moves to the first free one
            last, free_row = max(rows), free_rows.pop(0)
            rows[free_row] = rows.pop(last)
            removed.remove(free_row)
            moved.append((last, free_row, MoveDirectionality.UNIDIRECTIONAL))
        if step % 5 == 1 and len(rows) > 1:
            rows[0], rows[len(rows) - 1] = rows[len(rows) - 1], rows[0]
            moved.append((0, len(rows) - 1, MoveDirectionality.SWAP))
        batch = [rows[row] for row in range(len(rows))]
        changed = added or moved or removed
        update = BatchUpdate(batch_size=len(batch), removed=removed, added=added, moved=moved) if changed else None
        processor.update_state(update)
        if batch:
            logits = processor.apply(logits_of(served, batch))
            for request, token in zip(batch, draw_tokens(logits, batch, penalise=True), strict=True):
                request.tokens.append(token)
        step += 1


def play_on_runner_v2(served: Served, make: Any, waiting: list[Request], room: int) -> None:
    """Run all requests with reused slots, a new order of rows at each step, prompts in two steps, and preemptions."""
    size, order = served.model.config.vocab_size, np.random.default_rng(0)
    tokens = torch.zeros(room, 256, dtype=torch.int32)
    prompt_len, prefill_len = np.zeros(room, dtype=np.int32), np.zeros(room, dtype=np.int32)
    state = LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=room,
        vocab_size=size,
        all_token_ids=SimpleNamespace(gpu=tokens),
        prompt_len=SimpleNamespace(np=prompt_len),
        prefill_len=SimpleNamespace(np=prefill_len),
        total_len=SimpleNamespace(gpu=None),
    )
    processor = make(state)
    slots: dict[int, Request] = {}
    partly_read: set[int] = set()
    preempted = 0
    while waiting or slots:
        for slot, request in list(slots.items()):
            if len(request.tokens) == 20 + request.number and preempted < 3:  # resumed later
                preempted += 1
                waiting.append(slots.pop(slot))
        for slot in [slot for slot in range(room) if slot not in slots][: len(waiting)]:
            request = slots[slot] = waiting.pop(0)
            token_rows = [*request.prompt, *request.tokens]
            tokens[slot] = -1
            tokens[slot, : len(token_rows)] = torch.tensor(token_rows)
            prompt_len[slot], prefill_len[slot] = len(request.prompt), len(token_rows)
            assert processor.add_request(slot, request.params) == bool(request.steering or request.sampling.limits)
            partly_read.add(slot)
        rows = [int(slot) for slot in order.permutation(list(slots))]
        ends = [
            int(prefill_len[slot]) - 2 if slot in partly_read else len(slots[slot].prompt + slots[slot].tokens)
            for slot in rows
        ]
        mapping = np.array(rows, dtype=np.int32)
        context = LogitsContext(
            expanded_idx_mapping=torch.from_numpy(mapping),
            idx_mapping=torch.from_numpy(mapping),
            idx_mapping_np=mapping,
            expanded_local_pos=torch.zeros(len(rows)),
            input_ids=torch.zeros(len(rows)),
            pos=torch.tensor(ends) - 1,
            seq_lens_upper_bound_np=np.array(ends, dtype=np.int32),
        )
        batch = [slots[slot] for slot in rows]
        logits = logits_of(served, batch)
        for row, request in enumerate(batch):  # this runner applies the penalty first
            seen = torch.zeros(1, size, dtype=torch.bool)
            seen[0, [*request.prompt, *request.tokens]] = True
            logits[row] = apply_repetition_penalty(logits[row : row + 1], seen, request.sampling.repetition_penalty)[0]
        logits = processor.apply(logits, context)
        for slot, request, token in zip(rows, batch, draw_tokens(logits, batch, penalise=False), strict=True):
            if slot not in partly_read:
                tokens[slot, len(request.prompt + request.tokens)] = token
                request.tokens.append(token)
            if request.finished:
                del slots[slot]
        partly_read.clear()
    assert preempted == 3


@pytest.mark.slow
@pytest.mark.parametrize("runner", [1, 2])
def test_rows_draw_the_same_tokens_as_in_process_in_any_batch(served: Served, runner: int) -> None:
    requests = requests_of(served, 12)
    if runner == 1:
        processor = SteeringProcessor(served.config, torch.device("cpu"), False)
        assert not processor.is_argmax_invariant()
        play_on_runner_v1(served, processor, list(requests), room=5)
    else:
        play_on_runner_v2(served, served.processor, list(requests), room=5)
    for request in requests:
        assert request.tokens == in_process(served, request), request.steering
    plain = [in_process(served, replace(request, steering=None)) for request in requests]
    changed = [
        bool(request.steering) and request.tokens != tokens for request, tokens in zip(requests, plain, strict=True)
    ]
    assert sum(changed) > 6  # steering changes most steered requests


@pytest.mark.parametrize("scale", ["log_odds", "logits"])
def test_a_later_penalty_keeps_the_strength_of_boosts(served: Served, scale: Any) -> None:
    """Runner V1 applies the penalty to the output of the processor, for tokens of the prompt and the reply."""
    text = "{u_motivation: humor, u_emotion: sad, u_topic: [dogs]} {a_motivation:"
    weights = {"humor": 3.0, "seeking advice": -2.0, "comfort": 1.0}
    steering = Steering(boosts={"a_motivation": weights}, boost_scale=scale)
    vocabulary, size = Vocabulary(served.tokenizer), served.model.config.vocab_size
    reply = [token for token, _, _ in vocabulary.encode(text)]
    guide = Guide(vocabulary, steering, END, size)
    state: GuideState | None = guide.initial_state
    for token in reply:
        state = state and guide.next_state(state, token)
    assert state is not None
    in_reply, in_prompt, unseen = sorted(state.tokens, key=lambda token: token not in reply)
    assert in_reply in reply
    prompt = [in_prompt]
    seen = torch.zeros(1, size, dtype=torch.bool)
    seen[0, prompt + reply] = True
    assert not seen[0, unseen]

    params = SamplingParams(temperature=0.7, repetition_penalty=1.3, extra_args=processor_arguments(steering))
    processor = served.processor(torch.device("cpu"))
    processor.update_state(BatchUpdate(batch_size=1, removed=[], added=[(0, params, prompt, reply)], moved=[]))
    for number in range(5):  # logits above and below 0
        logits = torch.randn(1, size, generator=torch.Generator().manual_seed(number))
        expected = apply_steering(apply_repetition_penalty(logits, seen, 1.3), [state], 0.7)
        found = apply_repetition_penalty(processor.apply(logits.clone()), seen, 1.3)
        assert torch.allclose(found, expected, atol=1e-5)
        added = max(state.weights) * (0.7 if scale == "log_odds" else 1.0)
        assert math.isclose((expected - apply_repetition_penalty(logits, seen, 1.3)).max().item(), added, abs_tol=1e-5)


@pytest.mark.slow
def test_boosted_keywords_are_more_frequent_and_fixed_values_certain(served: Served) -> None:
    def replies(steering: Steering) -> list[str]:
        requests = requests_of(served, 20)
        for request in requests:
            request.steering, request.sampling = steering, SamplingConfig.from_base(top_k=40)
        processor = served.processor(torch.device("cpu"))
        play_on_runner_v1(served, processor, list(requests), room=20)
        return [served.tokenizer.decode(request.tokens, skip_special_tokens=True) for request in requests]

    def rate(boost: float) -> float:
        chains = map(parse, replies(Steering(boosts={"a_motivation": {"humor": boost}})))
        return float(np.mean([chain.action.motivation == "humor" for chain in chains if isinstance(chain, Chain)]))

    rates = [rate(boost) for boost in (0.0, 2.0, 8.0)]
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] > 0.95
    fixed: dict[str, Any] = {"a_motivation": "teasing", "u_topic": ()}
    texts = replies(Steering(fixed=fixed))
    assert all(BlockGrammar.with_values(fixed).initial_state().advance(text) for text in texts)
    assert sum("u_topic: []} {a_motivation: teasing, " in text for text in texts) == len(texts)
    assert sum(isinstance(parse(text), Chain) for text in texts) > 10


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"boosts": {"motivation": {"humor": 1}}}', "(?s)`vllm_xargs` is not a steering: .*a_motivation"),
        ('{"fixed": {"a_emotion": "a, b"}}', "holds ',', which the text form reserves"),
        ("[", "is not a steering"),
        (3, "is not a steering"),
    ],
)
def test_an_invalid_steering_of_a_request_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SteeringProcessor.validate_params(SamplingParams(extra_args={"sage_steering": value}))


def test_boosts_at_temperature_0_are_refused() -> None:
    boosts = processor_arguments(Steering(boosts={"a_topic": {"dogs": 1.0}}))
    SteeringProcessor.validate_params(SamplingParams(extra_args=boosts))
    with pytest.raises(ValueError, match="at 0 they do nothing"):
        SteeringProcessor.validate_params(SamplingParams(temperature=0.0, extra_args=boosts))
    raw = processor_arguments(Steering(boosts={"a_topic": {"dogs": 1.0}}, boost_scale="logits"))
    SteeringProcessor.validate_params(SamplingParams(temperature=0.0, extra_args=raw))
    fixed = processor_arguments(Steering(fixed={"a_topic": ()}))
    SteeringProcessor.validate_params(SamplingParams(temperature=0.0, extra_args=fixed))
    SteeringProcessor.validate_params(SamplingParams(temperature=0.0))


def test_a_value_that_the_tokenizer_cannot_write_ends_the_reply_and_not_the_server(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(vocabulary: Vocabulary, text: str) -> Any:
        raise ValueError(f"no token for {text!r}")

    monkeypatch.setattr(Vocabulary, "encode", encode)
    requests = requests_of(served, 3)  # two of them are steered
    processor = served.processor(torch.device("cpu"))
    with caplog.at_level(logging.ERROR):
        play_on_runner_v1(served, processor, list(requests), room=3)
    assert [request.tokens == [END] for request in requests] == [True, True, False]
    assert "cannot be steered, and its reply will be empty: no token for" in caplog.text


def test_speculative_decoding_is_refused(served: Served) -> None:
    config = SimpleNamespace(model_config=served.config.model_config, speculative_config=object())
    with pytest.raises(ValueError, match="without speculative decoding"):
        SteeringProcessor(config, torch.device("cpu"), False)
