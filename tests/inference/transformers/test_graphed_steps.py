"""Decode steps as CUDA graphs, without a GPU.

`capture_on_cpu` replaces the capture: a step is recorded as a function and run when it is replayed, and operations for
which Python must wait for the device are errors within it, as with CUDA.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sage_dialog.config import SamplingConfig

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from families import VOCABULARY, tiny_model  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from sage_dialog.inference.transformers import graphed_steps  # noqa: E402
from sage_dialog.inference.transformers.decode_states import SharedPrefixState  # noqa: E402
from sage_dialog.inference.transformers.decoding import decode  # noqa: E402
from sage_dialog.inference.transformers.graphed_steps import GraphedState  # noqa: E402
from sage_dialog.inference.transformers.reuse import choose_method  # noqa: E402

SAMPLING = SamplingConfig.from_base(temperature=1.3, top_k=24, repetition_penalty=1.1, max_new_tokens=40)
WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING:
            raise RuntimeError(f"{func} waits for the device, which a captured step cannot")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of replays of each capture."""
    counts: list[int] = []

    def capture_on_cpu(step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        number = len(counts)
        counts.append(0)

        def replay() -> None:
            with NoWaiting():
                found = step()
            counts[number] += 1
            logits.copy_(found)

        # The capture runs nothing, so that the shape of its result is asked of what it has run before.
        logits = torch.empty(len(step.__self__._token), VOCABULARY)  # type: ignore[attr-defined]
        return replay, logits

    monkeypatch.setattr(graphed_steps, "capture", capture_on_cpu)
    return counts


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_replayed_steps_give_the_replies_of_the_shared_prefix(kind: str, captures: list[int]) -> None:
    torch.set_num_threads(1)
    model = tiny_model(kind)
    plain = choose_method(model, 96, kind)
    assert plain.start is SharedPrefixState and captures == []
    prompts = [[20, 31, 7, 45, 22, 40, 13, 38, 29, 18, 50], [33, 41, 9], [12, 36, 40, 41]]
    draws = np.random.default_rng(5).random((3, 8, SAMPLING.max_new_tokens))
    endless = [row.tokens for rows in decode(model, prompts, draws, SAMPLING, end=-1) for row in rows]
    end = Counter(token for tokens in endless for token in set(tokens)).most_common(1)[0][0]
    expected = decode(model, prompts, draws, SAMPLING, end=end)
    lengths = sorted({len(row.tokens) for rows in expected for row in rows})
    assert len(lengths) > 8 and lengths[0] < 10, "rows end at different steps, so that some are dropped"

    assert choose_method(model, 96, kind, cuda_graphs=True).start is GraphedState
    assert captures, "the comparison at load replays steps as well"
    del captures[:]
    found = decode(model, prompts, draws, SAMPLING, end=end, start=GraphedState)
    assert [[row.tokens for row in rows] for rows in found] == [[row.tokens for row in rows] for rows in expected]
    for rows, others in zip(found, expected, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert row.log_probability == pytest.approx(other.log_probability, abs=1e-4)
    steps = min(max(lengths), SAMPLING.max_new_tokens - 1)
    assert sum(captures) == steps - 1, "all steps but the first are replays"
    assert 2 < len(captures) < steps / 2, "captured anew only where rows are dropped"


def test_an_architecture_that_cannot_be_captured_is_sampled_without_graphs(
    captures: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """The experts of a Mixtral run one by one look which tokens are theirs."""
    model = tiny_model("mixtral")
    model.set_experts_implementation("eager")
    with caplog.at_level(logging.INFO, "sage_dialog"):
        assert choose_method(model, 96, "policy 'a'", cuda_graphs=True).start is SharedPrefixState
    (message,) = caplog.messages
    assert message.startswith("MixtralForCausalLM: one copy of a prompt's keys") and "RuntimeError" in message
    for implementation in ("batched_mm", "grouped_mm"):
        model.set_experts_implementation(implementation)
        assert choose_method(model, 96, "policy 'a'", cuda_graphs=True).start is GraphedState
