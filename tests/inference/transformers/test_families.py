"""Every causal language model of the installed transformers: replies are those of plain forwards without a cache."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from sage_dialog.config import SamplingConfig

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from families import KINDS, LEFT_OUT, VOCABULARY, tiny_model  # noqa: E402

from sage_dialog.inference.transformers.decode_states import (  # noqa: E402
    RecomputedState,
    RepeatedCacheState,
    SharedPrefixState,
    accepted,
)
from sage_dialog.inference.transformers.decoding import decode  # noqa: E402
from sage_dialog.inference.transformers.reuse import choose_method  # noqa: E402

PROMPTS = [[20, 31, 7, 45, 22, 40, 13, 38, 29, 18, 50], [33, 41, 9, 27, 12, 36]]
SAMPLES, NEW = 2, 4
SAMPLING = SamplingConfig.from_base(temperature=1.3, top_k=VOCABULARY, repetition_penalty=1.0, max_new_tokens=NEW)
DRAWS = np.random.default_rng(3).random((len(PROMPTS), SAMPLES, NEW))

METHODS: dict[str, tuple[type, bool]] = {
    "llama": (SharedPrefixState, True),
    "mixtral": (SharedPrefixState, True),
    "stablelm": (RepeatedCacheState, True),  # drops keyword arguments
    "gpt_oss": (RepeatedCacheState, True),  # sinks
    "bloom": (RepeatedCacheState, True),  # biases by distance
    "nemotron": (RepeatedCacheState, True),
    "gemma2": (RepeatedCacheState, True),  # soft caps
    "mpt": (RepeatedCacheState, True),
    "falcon": (RepeatedCacheState, True),
    "qwen3_next": (RepeatedCacheState, True),  # recurrent states
    "roberta": (RepeatedCacheState, False),  # positions count padding
    "mamba": (RepeatedCacheState, False),
    "rwkv": (RecomputedState, False),  # no cache of transformers
}

REFUSED = {"cpmant", "prophetnet", "xlnet"}
"""A prompt is read in both directions, several tokens are predicted at once, or the order of tokens is another."""


def text_log_probability(model: Any, prompt: list[int], reply: list[int]) -> np.ndarray:
    """Return log-probabilities (NEW, vocabulary) of a plain forward."""
    without = dict.fromkeys(accepted(model, "use_cache"), False)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + reply]), **without).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(dim=1).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_replies_are_those_of_plain_forwards(kind: str) -> None:
    if kind in LEFT_OUT:
        pytest.skip(LEFT_OUT[kind])
    torch.set_num_threads(1)
    model = tiny_model(kind)
    own_attention = model.config._attn_implementation
    if kind in REFUSED:
        with pytest.raises(ValueError, match=f"{kind} cannot be sampled in this process"):
            choose_method(model, 96, kind)
        return
    method = choose_method(model, 96, kind)
    if kind in METHODS:
        assert (method.start, method.together) == METHODS[kind]
    batches = [[0, 1]] if method.together else [[0], [1]]
    replies: list[Any] = []
    for batch in batches:
        prompts, how = [PROMPTS[i] for i in batch], {"start": method.start, "branching": method.branching}
        replies += decode(model, prompts, DRAWS[batch], SAMPLING, end=-1, **how)
    model.set_attn_implementation(own_attention)
    for prompt, rows, draws in zip(PROMPTS, replies, DRAWS, strict=True):
        for row, uniform in zip(rows, draws, strict=True):
            log_probabilities = text_log_probability(model, prompt, row.tokens)
            weights = np.exp(log_probabilities / SAMPLING.temperature).cumsum(axis=1)
            expected = [int(np.searchsorted(w, u * w[-1], side="right")) for w, u in zip(weights, uniform, strict=True)]
            assert row.tokens == expected
            total = log_probabilities[np.arange(NEW), row.tokens].sum()
            assert row.log_probability == pytest.approx(total, abs=1e-3)


def test_the_log_names_the_architecture_that_needs_another_method(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sage_dialog"):
        choose_method(tiny_model("llama"), 96, "policy 'a'")
        assert caplog.messages == []
        choose_method(tiny_model("stablelm"), 96, "policy 'b'")
    (message,) = caplog.messages
    assert message.startswith("StableLmForCausalLM: transformers' own cache of the prompts, repeated for each sample")


@pytest.mark.parametrize("kind", ["llama", "mixtral", "stablelm", "gpt_oss"])
def test_bfloat16_decides_as_float32_does(kind: str) -> None:
    method = choose_method(tiny_model(kind).to(torch.bfloat16), 96, kind)
    assert (method.start, method.together) == METHODS[kind]


def test_a_model_that_looks_ahead_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = BertLMHeadModel(config).eval()
    with pytest.raises(ValueError, match=r"policy 'sage_0' at /x cannot be sampled .* BertLMHeadModel, .* causal"):
        choose_method(model, 96, "policy 'sage_0' at /x")


def test_damaged_weights_are_named_instead_of_the_architecture() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ValueError, match=r"policy 'sage_0' at /x gives logits that are not finite"):
        choose_method(model, 96, "policy 'sage_0' at /x")
