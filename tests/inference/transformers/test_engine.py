"""The engine in this process against plain transformers and PEFT; properties of all engines are in `test_engines`."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.inference.engine import Sample

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from test_engines import FREE, GREEDY, greedy_texts, plain_model, prompts_of, texts  # noqa: E402
from tiny_policies import save_tokenizer  # noqa: E402

from sage_dialog.inference.transformers import decoding  # noqa: E402
from sage_dialog.inference.transformers import engine as transformers_engine  # noqa: E402
from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402
from sage_dialog.inference.transformers.memory import Footprint  # noqa: E402


def test_logits_of_every_step_equal_those_of_a_plain_forward(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after rows were dropped: the logits of each step are among those of one forward pass over the final text."""
    steps: list[torch.Tensor] = []
    original_draw = decoding.draw

    def recorded(logits, *rest):
        steps.append(logits.clone())
        return original_draw(logits, *rest)

    monkeypatch.setattr(decoding, "draw", recorded)
    lengths, samples = (30, 4, 17), 16
    tokens = [[random.Random(length).randrange(1, 44) for _ in range(length)] for length in lengths]
    draws = np.random.default_rng(1).random((len(lengths), samples, 48))
    engine = TransformersEngine(base, [], seed=0, threads=1)
    sampling = FREE.model_copy(update={"repetition_penalty": 1.0, "top_k": 44, "max_new_tokens": 48})
    decoded = decoding.decode(engine._model, tokens, draws, sampling, end=0)
    assert len(steps[-1]) < len(steps[0])  # rows were dropped on the way

    plain = plain_model(base)
    for prompt, rows in zip(tokens, decoded, strict=True):
        for row in rows:
            with torch.inference_mode():
                logits_at_once = plain(torch.tensor([prompt + row.tokens])).logits[0, len(prompt) - 1 :]
            for step in range(len(row.tokens)):
                distance = (steps[step] - logits_at_once[step]).abs().amax(dim=1).min()
                assert distance < 1e-5


PROMPTS = prompts_of(*(3 + 5 * number % 31 for number in range(16)))


@pytest.fixture(scope="module")
def samples_at_once(base: Policy, adapters: tuple[Policy, Policy]) -> dict[str, list[list[Sample]]]:
    """Samples of PROMPTS in one batch, by policy."""
    engine = TransformersEngine(base, adapters, seed=3, threads=1)
    return {policy: engine.sample(policy, PROMPTS, FREE, samples=3) for policy in ("sage_1", "sage_0", "sage_2")}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4, 16])
def test_adapters_write_the_same_in_batches_of_any_size_and_order(
    base: Policy,
    adapters: tuple[Policy, Policy],
    samples_at_once: dict[str, list[list[Sample]]],
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def counted(model, prompts, *rest):
        sizes.append(len(prompts))
        return decoding.decode(model, prompts, *rest)

    monkeypatch.setattr(transformers_engine, "decode", counted)
    order = random.Random(size).sample(range(16), 16)
    memory = Footprint.of(plain_model(base)).bytes(size, 33 + 3, 3, FREE.max_new_tokens) / 1e9
    in_batches = TransformersEngine(base, adapters, seed=3, threads=1, memory_gb=1e-9 if size == 1 else memory)
    for policy, expected in samples_at_once.items():
        sizes.clear()
        found = in_batches.sample(policy, [PROMPTS[number] for number in order], FREE, samples=3)
        assert sizes[0] == size  # of the longest prompts
        assert {number: row for number, row in zip(order, found, strict=True)} == dict(enumerate(expected))


# --- architectures without a shared prefix -----------------------------------------


@pytest.mark.parametrize("kind", ["gpt_oss", "mamba"])
def test_other_architectures_write_what_generate_writes(kind: str, tmp_path: Path) -> None:
    """Sinks and a sliding window that is shorter than a prompt; recurrent states, without a limit of positions."""
    from families import tiny_model

    size = save_tokenizer(tmp_path)
    tiny_model(kind, vocab_size=size, sliding_window=16, eos_token_id=0, bos_token_id=None).save_pretrained(tmp_path)
    base = Policy.write_card(tmp_path, PolicyCard("base", "base", False, "base", weights_revision(tmp_path)))
    prompts = prompts_of(40, 3, 40, 25)
    engine = TransformersEngine(base, [], seed=0, threads=1)
    replies = engine.sample("base", prompts, GREEDY, samples=2)
    assert texts(replies) == [[text] * 2 for text in greedy_texts(plain_model(base), base, prompts)]
    assert [len(rows) for rows in engine.sample("base", prompts_of(70, 3), GREEDY)] == [int(kind == "mamba"), 1]


# --- streaming ----------------------------------------------------------------------


def test_the_first_reply_is_streamed_from_any_batch(base: Policy) -> None:
    engine = TransformersEngine(base, [], seed=3, threads=1, memory_gb=1e-9)
    pieces: list[str] = []
    replies = engine.sample("sage_0", prompts_of(3, 40, 11), FREE, samples=2, on_text=pieces.append)
    assert "".join(pieces) == replies[0][0].text


def test_nothing_is_streamed_for_a_first_prompt_without_room(base: Policy) -> None:
    pieces: list[str] = []
    engine = TransformersEngine(base, [], seed=3, threads=1)
    assert [len(row) for row in engine.sample("sage_0", prompts_of(90, 5), FREE, on_text=pieces.append)] == [0, 1]
    assert pieces == []


# --- after an exception ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module_name", "call"), [("self_attn", 6), ("mlp.experts", 6), ("mlp.experts", 1)])
def test_all_policies_sample_the_same_after_an_exception_in_a_forward_pass(
    base: Policy, adapters: tuple[Policy, Policy], monkeypatch: pytest.MonkeyPatch, module_name: str, call: int
) -> None:
    prompts, sampling = prompts_of(12, 30), FREE.model_copy(update={"max_new_tokens": 10})
    untouched = TransformersEngine(base, adapters, seed=3, threads=1)
    expected = {name: untouched.sample(name, prompts, sampling, samples=2) for name in ("sage_0", "sage_1", "sage_2")}
    assert len({row[0].text for rows in expected.values() for row in rows}) == 6
    engine = TransformersEngine(base, adapters, seed=3, threads=1)
    for broken in ("sage_1", "sage_0", "sage_2"):
        (*_, module) = (module for name, module in engine._model.named_modules() if name.endswith(module_name))
        while hasattr(module, "base_layer"):
            module = module.base_layer
        forward, calls = type(module).forward, []

        def failing(self, *args, forward=forward, calls=calls, module=module, **kwargs):
            calls.append(self)
            if self is module and len(calls) >= call:
                raise MemoryError
            return forward(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(type(module), "forward", failing)
            with pytest.raises(MemoryError):
                engine.sample(broken, prompts, sampling, samples=2)
        assert {name: engine.sample(name, prompts, sampling, samples=2) for name in expected} == expected


def test_changes_of_an_interrupted_adapter_are_removed_from_the_base(
    base: Policy, adapters: tuple[Policy, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt during PEFT's own cleanup (compare its issue 3475)."""
    from peft.tuners.lora import ParamWrapper

    def interrupted(self) -> None:
        raise KeyboardInterrupt

    prompts = prompts_of(12, 30)
    engine = TransformersEngine(base, adapters, seed=3, threads=1)
    expected = {name: engine.sample(name, prompts, FREE, samples=4) for name in ("sage_0", "sage_1", "sage_2")}
    with monkeypatch.context() as patch:
        patch.setattr(ParamWrapper, "_remove_parametrizations", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.sample("sage_1", prompts, FREE, samples=4)
    for name in ("sage_2", "sage_0", "sage_1"):
        assert engine.sample(name, prompts, FREE, samples=4) == expected[name]


# --- the device --------------------------------------------------------------------------------------------


def test_the_fingerprint_has_device_and_dtype(base: Policy) -> None:
    fingerprint_inputs = TransformersEngine(base, [], seed=0, threads=1, device="cpu").fingerprint_inputs
    assert (fingerprint_inputs["device"], fingerprint_inputs["dtype"]) == ("cpu", "float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(base: Policy) -> None:
    with pytest.raises(ValueError, match=r"device is cuda, but torch .* finds no GPU"):
        TransformersEngine(base, [], seed=0, device="cuda")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_name_policy_and_prompt(base: Policy, value: float) -> None:
    """One damaged embedding: only the prompt with this word meets it."""
    engine = TransformersEngine(base, [], seed=0, threads=1)
    first, second = prompts_of(3, 5)
    damaged = set(engine._policies.tokens(second)) - set(engine._policies.tokens(first))
    with torch.no_grad():
        engine._model.get_input_embeddings().weight[sorted(damaged)[0]] = value
    assert len(engine.sample("sage_0", [first], FREE)) == 1
    with pytest.raises(
        ValueError, match=r"'sage_0' at .* not finite \(NaN or infinity\) for the prompt test/prompt 1/5"
    ):
        engine.sample("sage_0", [first, second], FREE)


# --- memory ------------------------------------------------------------------------------------------------


def test_without_memory_for_a_batch_its_halves_are_sampled(
    base: Policy, adapters: tuple[Policy, Policy], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = prompts_of(3, 40, 11, 25, 7)
    engine = TransformersEngine(base, adapters, seed=3, threads=1)
    expected = engine.sample("sage_1", prompts, FREE, samples=2)
    sizes: list[int] = []

    def scarce(model, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decoding.decode(model, prompts, *rest)

    monkeypatch.setattr(transformers_engine, "decode", scarce)
    assert engine.sample("sage_1", prompts, FREE, samples=2) == expected
    assert sizes == [5, 2, 3, 1, 2]
    assert "no memory for 5 prompts at once" in caplog.text


def test_no_memory_for_one_prompt_is_the_error_itself(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    engine = TransformersEngine(base, [], seed=3, threads=1)
    monkeypatch.setattr(transformers_engine, "decode", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        engine.sample("sage_0", prompts_of(3, 4), FREE)


# --- merged adapters and dtypes ----------------------------------------------------------------------------


def test_merged_adapters_write_the_same_and_two_stay_in_memory(
    base: Policy, adapters: tuple[Policy, Policy], samples_at_once: dict[str, list[list[Sample]]]
) -> None:
    engine = TransformersEngine(base, adapters, seed=3, threads=1, merge_adapters=True)
    for policy in ("sage_2", "sage_0", "sage_1", "sage_0", "sage_2"):
        found = engine.sample(policy, PROMPTS, FREE, samples=3)
        same = [
            sample == other
            for rows, others in zip(found, samples_at_once[policy], strict=True)
            for sample, other in zip(rows, others, strict=True)
        ]
        assert sum(same) >= 47  # of 48: rounding may swap a token
        assert not any("lora" in name for name, _ in engine._model.named_modules())
    assert list(engine._loaded) == ["sage_0", "sage_2"]


@pytest.mark.parametrize(("dtype", "distance"), [("bfloat16", 0.2), ("int8", 0.2)])
@pytest.mark.parametrize("merge", [False, True])
def test_lower_precision_changes_log_probabilities_a_little(
    base: Policy, adapters: tuple[Policy, Policy], dtype: str, distance: float, merge: bool
) -> None:
    prompts, one = prompts_of(12, 30, 4), FREE.model_copy(update={"max_new_tokens": 1})
    arguments = {"seed": 3, "threads": 1, "merge_adapters": merge}
    exact = TransformersEngine(base, adapters, **arguments).sample("sage_1", prompts, one, samples=8)
    engine = TransformersEngine(base, adapters, dtype=dtype, **arguments)
    found = engine.sample("sage_1", prompts, one, samples=8)
    pairs = [
        (a.log_probability, b.log_probability)
        for rows, other in zip(found, exact, strict=True)
        for a, b in zip(rows, other, strict=True)
        if a.text == b.text
    ]
    assert len(pairs) >= 18  # of 24
    differences = [abs(a - b) for a, b in pairs]
    assert 1e-5 < max(differences) < distance
    assert engine.fingerprint_inputs["dtype"] == dtype
    assert engine.fingerprint_inputs["merge_adapters"] == merge


def test_int8_rows_do_not_depend_on_their_batch(base: Policy, adapters: tuple[Policy, Policy]) -> None:
    engine = TransformersEngine(base, adapters, seed=3, threads=1, dtype="int8")
    together = engine.sample("sage_1", PROMPTS, FREE, samples=3)
    assert [engine.sample("sage_1", [prompt], FREE, samples=3)[0] for prompt in PROMPTS[:5]] == together[:5]


def test_int8_without_a_cpu_and_unknown_dtypes_are_refused(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"dtype is int8, which needs the CPU; set device: cpu"):
        TransformersEngine(base, [], seed=0, dtype="int8")
    with pytest.raises(ValueError, match="float32"):
        TransformersEngine(base, [], seed=0, dtype="float16")
