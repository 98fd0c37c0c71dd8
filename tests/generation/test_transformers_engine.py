"""The engine against plain transformers and PEFT: the same tokens, whatever the batch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sage_dialog.generation.engine import Prompt, Sample
from sage_dialog.parameters import SamplingDials
from sage_dialog.policies import Policy

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sage_dialog.generation import decoding, transformers_engine  # noqa: E402
from sage_dialog.generation.transformers_engine import TransformersEngine  # noqa: E402

GREEDY = SamplingDials(top_k=1, max_new_tokens=24)
FREE = SamplingDials(temperature=1.1, top_k=20, repetition_penalty=1.1, max_new_tokens=24)


def prompts_of(*lengths: int) -> list[Prompt]:
    """One prompt of each length in words, each with a name of its own."""
    words = random.Random(5)
    return [
        Prompt(
            ({"role": "user", "content": " ".join(f"w{words.randrange(40)}" for _ in range(length))},),
            ("test", f"prompt {number}", length),
        )
        for number, length in enumerate(lengths)
    ]


def plain_model(base: Policy):
    return transformers.AutoModelForCausalLM.from_pretrained(base.path, attn_implementation="eager").eval()


def greedy_texts(model, base: Policy, prompts: Sequence[Prompt], **generation) -> list[str]:
    """Replies of transformers' own generate, one prompt at a time and so without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.path)
    texts = []
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            list(prompt.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**ids, do_sample=False, max_new_tokens=GREEDY.max_new_tokens, **generation)
        texts.append(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


def texts(replies: list[list[Sample]]) -> list[list[str]]:
    return [[sample.text for sample in samples] for samples in replies]


def test_top_1_is_greedy_generate_for_padded_prompts_of_unequal_length(base: Policy) -> None:
    prompts = prompts_of(3, 40, 11, 1, 25)
    replies = TransformersEngine(base, [], seed=0, threads=1).sample("sage_0", prompts, GREEDY, samples=3)
    expected = greedy_texts(plain_model(base), base, prompts)
    assert texts(replies) == [[text] * 3 for text in expected]
    assert len({tuple(text.split()[:4]) for text in expected}) > 1  # the prompts matter


def test_repetition_penalty_counts_the_prompt_and_never_the_padding(base: Policy) -> None:
    prompts = prompts_of(3, 40, 11)
    sampling = GREEDY.model_copy(update={"repetition_penalty": 1.8})
    replies = TransformersEngine(base, [], seed=0, threads=1).sample("sage_0", prompts, sampling)
    expected = greedy_texts(plain_model(base), base, prompts, repetition_penalty=1.8)
    assert texts(replies) == [[text] for text in expected]
    assert expected != greedy_texts(plain_model(base), base, prompts)


def test_logits_of_every_step_equal_those_of_a_plain_forward(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after rows were dropped: each step's logits are found among those of the finished texts read at once."""
    steps: list[torch.Tensor] = []
    free_draw = decoding.draw

    def recorded(logits, *rest):
        steps.append(logits.clone())
        return free_draw(logits, *rest)

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
                read = plain(torch.tensor([prompt + row.tokens])).logits[0, len(prompt) - 1 :]
            for step in range(len(row.tokens)):
                distance = (steps[step] - read[step]).abs().amax(dim=1).min()
                assert distance < 1e-5


def test_a_sample_depends_on_seed_item_and_its_index_alone(base: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(3, 40, 11, 1, 25, 33, 8)
    engine = TransformersEngine(base, [], seed=3, threads=1)
    together = engine.sample("sage_0", prompts, FREE, samples=5)
    backwards = engine.sample("sage_0", prompts[::-1], FREE, samples=5)[::-1]
    alone = [engine.sample("sage_0", [prompt], FREE, samples=5)[0] for prompt in prompts]
    fewer = engine.sample("sage_0", prompts, FREE, samples=2)
    monkeypatch.setattr(transformers_engine, "MAX_ROWS", 7)
    split = engine.sample("sage_0", prompts, FREE, samples=5)
    assert together == backwards == alone == split
    assert [samples[:2] for samples in together] == fewer
    assert len({sample.text for samples in together for sample in samples}) > 30


def test_another_seed_or_item_gives_other_samples(base: Policy) -> None:
    (prompt,) = prompts_of(10)
    first = TransformersEngine(base, [], seed=3, threads=1).sample("sage_0", [prompt], FREE, samples=4)
    other_seed = TransformersEngine(base, [], seed=4, threads=1).sample("sage_0", [prompt], FREE, samples=4)
    renamed = replace(prompt, item=("another",))
    other_item = TransformersEngine(base, [], seed=3, threads=1).sample("sage_0", [renamed], FREE, samples=4)
    assert first != other_seed
    assert first != other_item


def test_finished_says_whether_the_end_token_came(base: Policy) -> None:
    samples = TransformersEngine(base, [], seed=0, threads=1).sample("sage_0", prompts_of(5, 20), FREE, samples=20)
    cut = [sample for row in samples for sample in row if not sample.finished]
    ended = [sample for row in samples for sample in row if sample.finished]
    assert cut and ended
    assert {sample.tokens for sample in cut} == {FREE.max_new_tokens}
    assert all(sample.tokens < FREE.max_new_tokens for sample in ended)
    assert all(len(sample.text.split()) == sample.tokens and "<end>" not in sample.text for sample in cut + ended)


def test_a_prompt_without_room_gets_no_samples_and_the_others_theirs(base: Policy) -> None:
    engine = TransformersEngine(base, [], seed=0, threads=1)
    fits = 96 - 24 - 3  # the window, the new tokens, the template's own three words
    replies = engine.sample("sage_0", prompts_of(fits, fits + 1, 5), FREE, samples=2)
    assert [len(samples) for samples in replies] == [2, 0, 2]


def test_policies_switch_exactly(base: Policy, adapters: tuple[Policy, Policy]) -> None:
    from peft import PeftModel

    prompts = prompts_of(12, 30)
    engine = TransformersEngine(base, [base, *adapters, adapters[0]], seed=0, threads=1)
    expected = {"sage_0": greedy_texts(plain_model(base), base, prompts)}
    for policy in adapters:
        adapted = PeftModel.from_pretrained(plain_model(base), policy.path).eval()
        expected[policy.name] = greedy_texts(adapted, base, prompts)
    assert len({tuple(replies) for replies in expected.values()}) == 3
    for name in ("sage_2", "sage_0", "sage_1", "sage_2", "sage_1", "sage_0"):
        assert texts(engine.sample(name, prompts, GREEDY)) == [[text] for text in expected[name]]


def test_an_adapter_of_another_base_is_refused(base: Policy, adapters: tuple[Policy, Policy]) -> None:
    stranger = Policy(adapters[0].path, replace(adapters[0].card, base_revision="0123"))
    with pytest.raises(ValueError, match=r"'sage_1' .* belongs to base revision 0123"):
        TransformersEngine(base, [stranger], seed=0, threads=1)


def test_an_adapter_is_no_base(adapters: tuple[Policy, Policy]) -> None:
    with pytest.raises(ValueError, match=r"'sage_1' .* is an adapter"):
        TransformersEngine(adapters[0], [], seed=0, threads=1)


def test_two_policies_of_one_name_are_refused(base: Policy, adapters: tuple[Policy, Policy]) -> None:
    namesake = Policy(adapters[1].path, replace(adapters[1].card, name="sage_1"))
    with pytest.raises(ValueError, match="two policies are named 'sage_1'"):
        TransformersEngine(base, [adapters[0], namesake], seed=0, threads=1)


def test_an_unknown_policy_is_named_with_those_there(base: Policy, adapters: tuple[Policy, Policy]) -> None:
    engine = TransformersEngine(base, adapters, seed=0, threads=1)
    with pytest.raises(KeyError, match="'sage_9' is not loaded; this engine holds sage_0, sage_1, sage_2"):
        engine.sample("sage_9", prompts_of(3), GREEDY)
