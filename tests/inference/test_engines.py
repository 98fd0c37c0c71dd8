"""Properties of every engine: in this process, and over HTTP from a server of the same small policies."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Engine, Prompt, Sample
from sage_dialog.sac import Chain, parse

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sage_dialog.inference.transformers.engine import TransformersEngine  # noqa: E402

GREEDY = SamplingConfig.from_base(top_k=1, max_new_tokens=24)
FREE = SamplingConfig.from_base(temperature=1.1, top_k=20, repetition_penalty=1.1, max_new_tokens=24)
BLOCKS = SamplingConfig.from_base(temperature=1.0, top_k=50, max_new_tokens=120)

Open = Callable[..., Engine]


def prompts_of(*lengths: int) -> list[Prompt]:
    """Return a prompt of each length in words, each with its own name."""
    words = random.Random(5)
    return [
        Prompt(
            ({"role": "user", "content": " ".join(f"w{words.randrange(40)}" for _ in range(length))},),
            ("test", f"prompt {number}", length),
        )
        for number, length in enumerate(lengths)
    ]


def plain_model(base: Policy) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base.path, attn_implementation="eager").eval()


def greedy_texts(model: Any, base: Policy, prompts: Sequence[Prompt], **generation: Any) -> list[str]:
    """Return the replies of transformers' generate, one prompt at a time and thus without padding."""
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


KINDS: dict[str, dict[str, Any] | None] = {
    "in process": None,
    "vllm": {},
    "a request a sample, as text": {"n": False, "token_prompts": False, "token_ids": False},
}


def short_prompts(count: int) -> list[Prompt]:
    return [Prompt(({"role": "user", "content": "x"},), ("test", number)) for number in range(count)]


@pytest.fixture(params=KINDS)
def open_engine(request: pytest.FixtureRequest, base: Policy) -> Open:
    """A function that opens an engine of each kind; over HTTP on a server of `writer` if the test uses it."""
    supports = KINDS[request.param]
    if supports is None:
        return lambda base, policies=(), seed=0: TransformersEngine(base, policies, seed, threads=1)
    served = request.getfixturevalue("writer" if "writer" in request.fixturenames else "base")
    over_http, server = request.getfixturevalue("open_engine"), request.getfixturevalue("serve")(served)
    return lambda base, policies=(), seed=0: over_http(
        server.url, base=base, policies=policies, seed=seed, supports=supports
    )


def test_top_1_is_greedy_generate_for_prompts_of_unequal_length(open_engine: Open, base: Policy) -> None:
    prompts = prompts_of(3, 40, 11, 1, 25)
    replies = open_engine(base).sample("sage_0", prompts, GREEDY, samples=3)
    expected = greedy_texts(plain_model(base), base, prompts)
    assert texts(replies) == [[text] * 3 for text in expected]
    assert len({tuple(text.split()[:4]) for text in expected}) > 1  # the prompts matter


def test_repetition_penalty_counts_the_prompt(open_engine: Open, base: Policy) -> None:
    prompts = prompts_of(3, 40, 11)
    replies = open_engine(base).sample("sage_0", prompts, GREEDY.model_copy(update={"repetition_penalty": 1.8}))
    expected = greedy_texts(plain_model(base), base, prompts, repetition_penalty=1.8)
    assert texts(replies) == [[text] for text in expected]
    assert expected != greedy_texts(plain_model(base), base, prompts)


def test_a_sample_depends_on_seed_item_and_its_index_alone(open_engine: Open, base: Policy) -> None:
    prompts = prompts_of(3, 40, 11, 1, 25)
    engine = open_engine(base, seed=3)
    together = engine.sample("sage_0", prompts, FREE, samples=5)
    backwards = engine.sample("sage_0", prompts[::-1], FREE, samples=5)[::-1]
    alone = [engine.sample("sage_0", [prompt], FREE, samples=5)[0] for prompt in prompts]
    fewer = engine.sample("sage_0", prompts, FREE, samples=2)
    assert together == backwards == alone
    assert [samples[:2] for samples in together] == fewer
    assert len({sample.text for samples in together for sample in samples}) > 20


def test_another_seed_or_item_gives_other_samples(open_engine: Open, base: Policy) -> None:
    (prompt,) = prompts_of(10)
    first = open_engine(base, seed=3).sample("sage_0", [prompt], FREE, samples=4)
    other_seed = open_engine(base, seed=4).sample("sage_0", [prompt], FREE, samples=4)
    other_item = open_engine(base, seed=3).sample("sage_0", [replace(prompt, item=("another",))], FREE, samples=4)
    assert first != other_seed
    assert first != other_item


def test_finished_is_whether_the_end_token_was_sampled(open_engine: Open, base: Policy) -> None:
    samples = open_engine(base).sample("sage_0", prompts_of(5, 20), FREE, samples=20)
    cut = [sample for row in samples for sample in row if not sample.finished]
    ended = [sample for row in samples for sample in row if sample.finished]
    assert cut and ended
    assert {sample.tokens for sample in cut} == {FREE.max_new_tokens}
    assert all(sample.tokens < FREE.max_new_tokens for sample in ended)
    assert all(len(sample.text.split()) == sample.tokens and "<end>" not in sample.text for sample in cut + ended)


def test_a_prompt_without_room_gets_no_samples_and_the_others_theirs(open_engine: Open, base: Policy) -> None:
    fits = 96 - 24 - 3  # the window, the new tokens, the template's own three words
    engine, prompts = open_engine(base), prompts_of(fits, fits + 1, 5)
    assert [engine.window - engine.prompt_tokens(prompt) for prompt in prompts] == [24, 23, 88]
    assert [len(samples) for samples in engine.sample("sage_0", prompts, FREE, samples=2)] == [2, 0, 2]


@pytest.mark.parametrize("policy", ["sage_0", "sage_1"])
def test_log_probability_is_the_policys_own_of_the_reply_and_its_end(
    open_engine: Open, base: Policy, adapters: tuple[Policy, Policy], policy: str
) -> None:
    """Independent of penalty, temperature, top-k and of whether the reply is finished."""
    from peft import PeftModel

    sampling = SamplingConfig.from_base(temperature=1.7, top_k=9, repetition_penalty=1.5, max_new_tokens=24)
    prompts = prompts_of(30, 4, 17)
    replies = open_engine(base, adapters).sample(policy, prompts, sampling, samples=8)
    assert len({sample.finished for samples in replies for sample in samples}) == 2
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(base.path), plain_model(base)
    if policy == "sage_1":
        model = PeftModel.from_pretrained(model, adapters[0].path).eval()
    for prompt, samples in zip(prompts, replies, strict=True):
        before = tokenizer.apply_chat_template(list(prompt.messages), add_generation_prompt=True)["input_ids"]
        for sample in samples:
            reply = tokenizer(sample.text + " <end>" * sample.finished)["input_ids"]
            with torch.inference_mode():
                logits = model(torch.tensor([before + reply])).logits[0, len(before) - 1 : -1].double()
            expected = logits.log_softmax(dim=-1)[range(len(reply)), reply].sum()
            assert sample.log_probability == pytest.approx(float(expected), abs=1e-3, rel=1e-5)


@pytest.mark.parametrize("lengths", [(12,), (3, 40, 11), (30, 12)])
def test_the_streamed_text_is_the_first_sample_of_the_first_prompt(
    open_engine: Open, base: Policy, lengths: tuple[int, ...]
) -> None:
    prompts, pieces = prompts_of(*lengths), list[str]()
    engine = open_engine(base)
    replies = engine.sample("sage_0", prompts, FREE, samples=3, on_text=pieces.append)
    assert "".join(pieces) == replies[0][0].text
    assert len(pieces) == replies[0][0].tokens > 1
    assert replies == engine.sample("sage_0", prompts, FREE, samples=3)


def test_a_listener_may_stop_the_reply(open_engine: Open, base: Policy, adapters: tuple[Policy, Policy]) -> None:
    pieces: list[str] = []

    def listen(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise InterruptedError(piece)

    prompts, engine = prompts_of(12, 30), open_engine(base, adapters)
    with pytest.raises(InterruptedError, match="w"):
        engine.sample("sage_1", prompts, FREE, samples=2, on_text=listen)
    expected = open_engine(base, adapters).sample("sage_1", prompts, FREE, samples=2)
    assert expected[0][0].text.startswith("".join(pieces))
    assert engine.sample("sage_1", prompts, FREE, samples=2) == expected


def test_policies_switch_exactly(open_engine: Open, base: Policy, adapters: tuple[Policy, Policy]) -> None:
    from peft import PeftModel

    prompts = prompts_of(12, 30)
    engine = open_engine(base, [base, *adapters, adapters[0]])
    expected = {"sage_0": greedy_texts(plain_model(base), base, prompts)}
    for policy in adapters:
        adapted = PeftModel.from_pretrained(plain_model(base), policy.path).eval()
        expected[policy.name] = greedy_texts(adapted, base, prompts)
    assert len({tuple(replies) for replies in expected.values()}) == 3
    for name in ("sage_2", "sage_0", "sage_1", "sage_2", "sage_1", "sage_0"):
        assert texts(engine.sample(name, prompts, GREEDY)) == [[text] for text in expected[name]]


def test_an_adapter_of_another_base_is_refused(
    open_engine: Open, base: Policy, adapters: tuple[Policy, Policy]
) -> None:
    other_adapter = Policy(adapters[0].path, replace(adapters[0].card, base_revision="0123"))
    with pytest.raises(ValueError, match=r"'sage_1' .* belongs to base revision 0123"):
        open_engine(base, [other_adapter])


def test_an_adapter_is_no_base(open_engine: Open, adapters: tuple[Policy, Policy]) -> None:
    with pytest.raises(ValueError, match=r"'sage_1' .* is an adapter"):
        open_engine(adapters[0])


def test_two_policies_of_one_name_are_refused(open_engine: Open, base: Policy, adapters: tuple[Policy, Policy]) -> None:
    same_name = Policy(adapters[1].path, replace(adapters[1].card, name="sage_1"))
    with pytest.raises(ValueError, match="two policies are named 'sage_1'"):
        open_engine(base, [adapters[0], same_name])


def test_an_unknown_policy_is_named_with_those_there(
    open_engine: Open, base: Policy, adapters: tuple[Policy, Policy]
) -> None:
    with pytest.raises(KeyError, match="'sage_9' is not loaded; this engine has sage_0, sage_1, sage_2"):
        open_engine(base, adapters).sample("sage_9", prompts_of(3), GREEDY)


def test_a_policy_without_blocks_is_not_steered(open_engine: Open, base: Policy) -> None:
    with pytest.raises(ValueError, match="'sage_0' writes no state and action blocks, so there is nothing to steer"):
        open_engine(base).sample("sage_0", prompts_of(3), GREEDY, steering=Steering(fixed={"a_emotion": "calm"}))


def test_blocks_are_read_as_the_policy_wrote_them(open_engine: Open, writer: Policy) -> None:
    engine, pieces = open_engine(writer), list[str]()
    (samples,) = engine.sample("sage_1", short_prompts(1), BLOCKS, samples=8, on_text=pieces.append)
    assert sum(isinstance(parse(sample.text), Chain) for sample in samples) > 4
    assert "".join(pieces) == samples[0].text


@pytest.mark.parametrize("open_engine", ["in process", "vllm"], indirect=True)
@pytest.mark.parametrize(
    ("steering", "share"),
    [
        (Steering(boosts={"u_motivation": {"humility": 4.0}}), 0.7),
        (Steering(fixed={"u_motivation": "humility"}), 1.0),
    ],
    ids=["boosted", "fixed"],
)
def test_steering_changes_the_reply_and_streaming_does_not(
    open_engine: Open, writer: Policy, steering: Steering, share: float
) -> None:
    def follows(replies: list[list[Sample]]) -> float:
        chains = [chain for row in replies for sample in row if isinstance(chain := parse(sample.text), Chain)]
        assert len(chains) > 6
        return sum(chain.state.motivation == "humility" for chain in chains) / len(chains)

    engine, pieces = open_engine(writer), list[str]()
    streamed = engine.sample("sage_1", short_prompts(3), BLOCKS, 4, steering, pieces.append)
    assert follows(streamed) >= share
    assert follows(engine.sample("sage_1", short_prompts(3), BLOCKS, 4)) < 0.6
    assert "".join(pieces) == streamed[0][0].text
    assert streamed == engine.sample("sage_1", short_prompts(3), BLOCKS, 4, steering)
