"""The estimated memory of a batch against torch's allocations."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from sage_dialog.config import SamplingConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sage_dialog.inference.transformers.decoding import decode  # noqa: E402
from sage_dialog.inference.transformers.memory import Footprint, batches  # noqa: E402
from sage_dialog.inference.transformers.shared_prefix import IMPLEMENTATION  # noqa: E402

END = 0
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "many words": {"vocab_size": 9000},
    "wide": {"hidden_size": 96, "intermediate_size": 384},
    "deep": {"num_hidden_layers": 8},
    "large heads": {"num_key_value_heads": 4, "head_dim": 32},
    "experts": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "wide experts": {"num_local_experts": 8, "num_experts_per_tok": 3, "hidden_size": 96, "intermediate_size": 384},
    "bfloat16": {"dtype": torch.bfloat16},
}


def model_of(shape: dict[str, Any]) -> Any:
    kind = "Mixtral" if "num_local_experts" in shape else "Llama"
    config = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **ATTENTION,
        "max_position_embeddings": 2048, "bos_token_id": None, "eos_token_id": END, "pad_token_id": END,
        "attn_implementation": IMPLEMENTATION, **shape,
    }  # fmt: skip
    dtype = config.pop("dtype", torch.float32)
    if kind == "Mixtral":
        config["experts_implementation"] = "eager"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**config))
    return model.to(dtype).eval()


def adapted(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], target_parameters=experts))
    return model


def allocated(
    model: Any, prompts: int, longest: int, samples: int, new: int, guide: Any = None, branching: bool = False
) -> int:
    """Return the peak bytes of `decode`, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    draw = random.Random(0)
    words = [
        [draw.randrange(1, 300) for _ in range(longest - number % 3 * (longest // 8))] for number in range(prompts)
    ]
    draws = np.random.default_rng(0).random((prompts, samples, new))
    sampling = SamplingConfig.from_base(temperature=1.1, top_k=20, repetition_penalty=1.1, max_new_tokens=new)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        decode(model, words, draws, sampling, END, guide, branching=branching)
    current = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, "adapted experts"])
def test_the_estimate_is_a_close_upper_bound(name: str) -> None:
    model = adapted(model_of(MODELS["wide experts"])) if name == "adapted experts" else model_of(MODELS[name])
    footprint = Footprint.of(model)
    for batch in ((1, 8, 1, 4), (2, 400, 2, 3), (4, 40, 16, 12), (6, 150, 4, 6), (1, 20, 48, 32)):
        found = allocated(model, *batch)
        assert found <= footprint.bytes(*batch) < 2**16 + 3 * found, batch
        assert allocated(model, *batch, branching=True) <= footprint.bytes(*batch), batch


def test_the_estimate_includes_steering() -> None:
    from sage_dialog.inference.steering import GuideState

    model = model_of(MODELS["many words"])
    mask = np.zeros(9000, np.float32)

    class Guide:
        initial_state = GuideState(None, b"", list(range(20)), [1.0] * 20, mask)  # type: ignore[arg-type]

        def next_state(self, state: GuideState, token: int) -> GuideState:
            return state

    for batch in ((1, 8, 1, 4), (4, 40, 16, 5)):
        found = allocated(model, *batch, Guide())
        assert allocated(model, *batch) < found <= Footprint.of(model).bytes(*batch)


FOOTPRINT = Footprint(
    layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, vocabulary=300, inner=64, experts=1, element=4
)


def test_a_batch_is_as_large_as_fits_and_never_empty() -> None:
    lengths = dict(enumerate([5, 300, 40, 40, 41, 7, 1, 39]))
    for budget in (0, 10**5, 10**6, 3 * 10**6, 10**9):
        made_batches = list(batches(lengths, 4, 16, FOOTPRINT, budget))
        assert sorted(index for batch in made_batches for index in batch) == list(range(8))
        assert [index for batch in made_batches for index in batch] == [1, 4, 2, 3, 7, 5, 0, 6]  # the longest first
        for batch in made_batches:
            bytes_ = FOOTPRINT.bytes(len(batch), lengths[batch[0]], 4, 16)
            assert bytes_ <= budget or len(batch) == 1
        for batch in made_batches[:-1]:
            assert FOOTPRINT.bytes(len(batch) + 1, lengths[batch[0]], 4, 16) > budget
    assert [len(batch) for batch in batches(lengths, 4, 16, FOOTPRINT, 0)] == [1] * 8
    assert [len(batch) for batch in batches(lengths, 4, 16, FOOTPRINT, 10**9)] == [8]
    assert list(batches({}, 4, 16, FOOTPRINT, 10**9)) == []


def test_the_estimate_grows_with_each_dimension() -> None:
    batch = (2, 20, 16, 16)
    for dimension in range(4):
        more = tuple(number * (2 if index == dimension else 1) for index, number in enumerate(batch))
        assert FOOTPRINT.bytes(*more) > FOOTPRINT.bytes(*batch)
