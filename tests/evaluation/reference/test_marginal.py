"""Likelihoods with the chain summed out, against a plain forward pass for every chain of the set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from block_writers import CHAINS as WRITTEN
from block_writers import END, SPACED_TEMPLATE, TEMPLATE, TOKENIZERS, block_writer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sage_dialog.evaluation.reference import token_tree
from sage_dialog.evaluation.reference.chain_set import (
    FIELDS,
    ChainSet,
    arm_of,
    blocks_text,
    chain_set,
    in_arm,
    value_end,
)
from sage_dialog.evaluation.reference.encoding import ReplyEncoder
from sage_dialog.evaluation.reference.marginal import EXPECTED_BOUND, UPPER_BOUND, ChainScorer
from sage_dialog.evaluation.reference.token_tree import PlainScorer, TreeScorer, choose_scorer, prefix_tree
from sage_dialog.inference.chat_format import load_tokenizer
from sage_dialog.sac import Chain, Intent
from sage_dialog.training.chat_templates import encode_conversation, training_format

CHAINS = ChainSet(
    {
        "u_motivation": (None,),
        "u_emotion": ("sad", "sadder", "calm"),
        "u_topic": ((), ("dogs",), ("dogs", "cats")),
        "a_motivation": ("humor", "humility", None),
        "a_emotion": (None,),
        "a_topic": ((),),
    }
)
HISTORY = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "My dog died."},
    {"role": "assistant", "content": "Oh no."},
    {"role": "user", "content": "Yes: {why}?"},
]
REPLY = "Tell me more, friend."


class Tiny(NamedTuple):
    model: Any
    tokenizer: Any


def tiny(kind: str, spread: float = 0.4) -> Tiny:
    torch.manual_seed(0)
    made = TOKENIZERS[kind]()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = SPACED_TEMPLATE if kind == "pieces" else TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=spread,
        eos_token_id=END,
        pad_token_id=END,
        bos_token_id=None,
    )
    return Tiny(LlamaForCausalLM(config).eval(), tokenizer)


@pytest.fixture(scope="module", params=["words", "merged", "pieces"])
def of_kind(request: pytest.FixtureRequest) -> Tiny:
    return tiny(request.param)


@pytest.fixture(scope="module")
def words() -> Tiny:
    return tiny("words")


def chain_scorer(of: Tiny, **changes: Any) -> ChainScorer:
    settings = {"max_chains": 100, "share": 1.0, "samples": 8, "window": 2048} | changes
    return ChainScorer(ReplyEncoder(of.tokenizer), settings.pop("scorer", TreeScorer(of.model)), **settings)


def log_probability(of: Tiny, content: str, history: Sequence[Any] = HISTORY) -> float:
    """That of a last message, by training's own tokens and one whole forward pass."""
    (example,) = encode_conversation(
        training_format(of.tokenizer), [*history, {"role": "assistant", "content": content}]
    )
    labels = np.array(example["labels"])
    first = int(np.flatnonzero(labels == -100)[-1]) + 1
    with torch.no_grad():
        logits = of.model(input_ids=torch.tensor([example["input_ids"]])).logits[0].double()
    values = logits.log_softmax(dim=-1)
    return sum(float(values[place - 1, labels[place]]) for place in range(first, len(labels)))


def random() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(0))


def test_the_marginal_is_the_sum_over_all_chains(of_kind: Tiny) -> None:
    chains = list(itertools.product(*(CHAINS.values[field] for field in FIELDS)))
    joint = {chain: log_probability(of_kind, blocks_text(chain) + REPLY) for chain in chains}
    expected = math.log(math.fsum(math.exp(value - max(joint.values())) for value in joint.values()))
    found = chain_scorer(of_kind).marginal(HISTORY, REPLY, CHAINS, random())
    assert found is not None and len(chains) == CHAINS.size == found.chains == 27
    assert found.log_probability == pytest.approx(expected + max(joint.values()), abs=1e-4)
    assert found.best == max(joint, key=lambda chain: joint[chain])
    assert 0 < found.mass <= 1 and found.estimate == UPPER_BOUND
    assert math.log(found.mass) > found.log_probability


def test_a_reply_without_blocks_has_the_likelihood_of_its_tokens(of_kind: Tiny) -> None:
    assert chain_scorer(of_kind).plain(HISTORY, REPLY) == pytest.approx(log_probability(of_kind, REPLY), abs=1e-4)


def test_a_special_token_that_a_person_typed_is_text_as_in_training(of_kind: Tiny) -> None:
    reply = "Yes.<end> Tell me."
    found = chain_scorer(of_kind).given(HISTORY, [(None, "sad", (), "humor", None, ())], reply)
    assert found is not None
    whole = log_probability(of_kind, blocks_text((None, "sad", (), "humor", None, ())) + reply)
    assert sum(found[0]) == pytest.approx(whole, abs=1e-4)


def test_chain_and_reply_come_to_the_whole_and_split_at_the_end_of_the_blocks(of_kind: Tiny) -> None:
    given = [("sad", "humor"), ("calm", "humility")]
    chains = [(None, emotion, ("dogs",), motivation, None, ()) for emotion, motivation in given]
    found = chain_scorer(of_kind).given(HISTORY, chains, REPLY)
    assert found is not None
    for (of_chain, of_reply), chain in zip(found, chains, strict=True):
        whole = log_probability(of_kind, blocks_text(chain) + REPLY)
        assert of_chain + of_reply == pytest.approx(whole, abs=1e-4)
    (encoded,) = ReplyEncoder(of_kind.tokenizer).encode(HISTORY, [blocks_text(chains[0])], REPLY)
    texts = [
        of_kind.tokenizer.decode(encoded.tokens[start:end])
        for start, end in ((0, encoded.after_chain), (encoded.after_chain, None))
    ]
    assert texts[0].rstrip().endswith(("}", "[")) and "Tell" not in texts[0] and texts[1].endswith("friend.<end>")


def test_the_chains_of_the_set_and_their_beginnings_hold_no_more_than_everything(of_kind: Tiny) -> None:
    """A model that is sure of a form: the mass comes near to 1, never above it."""
    sure = tiny("words", spread=1.0)
    for of in (of_kind, sure):
        found = chain_scorer(of).marginal(HISTORY, REPLY, CHAINS, random())
        assert found is not None
        assert found.mass <= 1
        for field, values in found.labels.items():
            assert sum(math.exp(value) for value in values.values()) <= 1 + 1e-6, field


def test_a_policy_that_writes_blocks_gives_nearly_all_of_its_mass_to_what_it_was_trained_on(tmp_path: Path) -> None:
    policy = block_writer("words", tmp_path)
    of = Tiny(LlamaForCausalLM.from_pretrained(policy.path).eval(), load_tokenizer(policy.path))
    found = chain_scorer(of, samples=4).marginal(
        [{"role": "user", "content": "x"}], REPLY, chain_set(WRITTEN), random()
    )
    assert found is not None and found.estimate == EXPECTED_BOUND
    for field, values in found.labels.items():
        assert 0.5 < sum(math.exp(value) for value in values.values()) <= 1 + 1e-6, field


def test_where_the_chain_is_certain_the_marginal_is_the_plain_likelihood_behind_it(words: Tiny) -> None:
    """p(chain) = 1 for one chain: what is left is p(reply | chain), up to nothing."""

    class Certain(TreeScorer):
        def score(self, sequences: Any, first: int) -> list[np.ndarray]:
            values = super().score(sequences, first)
            for sequence, each in zip(sequences, values, strict=True):
                if list(sequence[: len(wanted.tokens)]) == wanted.tokens[: len(sequence)]:
                    each[: wanted.after_chain - wanted.first] = 0.0
                else:
                    each[: wanted.after_chain - wanted.first] = -1e9
            return values

    chain = (None, "calm", ("dogs",), "humility", None, ())
    (wanted,) = ReplyEncoder(words.tokenizer).encode(HISTORY, [blocks_text(chain)], REPLY)
    found = chain_scorer(words, scorer=Certain(words.model)).marginal(HISTORY, REPLY, CHAINS, random())
    behind = chain_scorer(words).given(HISTORY, [chain], REPLY)
    assert found is not None and behind is not None and found.best == chain
    assert found.log_probability == pytest.approx(behind[0][1], abs=1e-4) and found.mass == pytest.approx(1.0)


def test_the_most_probable_chains_give_a_lower_bound_that_the_share_decides(words: Tiny) -> None:
    whole = chain_scorer(words).marginal(HISTORY, REPLY, CHAINS, random())
    some = chain_scorer(words, share=0.9).marginal(HISTORY, REPLY, CHAINS, random())
    few = chain_scorer(words).marginal(HISTORY, REPLY, CHAINS, random(), fully=False)
    assert whole is not None and some is not None and few is not None
    assert some.chains < few.chains == 4 < whole.chains
    assert some.log_probability < few.log_probability < whole.log_probability
    assert some.labels["u_emotion"] == whole.labels["u_emotion"]
    for field in whole.labels:
        for value, score in some.labels[field].items():
            assert score <= whole.labels[field][value] + 1e-4
    assert some.mass < whole.mass


def test_labels_are_predicted_by_the_sum_over_the_other_fields(words: Tiny) -> None:
    """Against brute force, over the text up to the end of the last value."""
    found = chain_scorer(words).marginal(HISTORY, REPLY, CHAINS, random())
    assert found is not None and list(found.labels) == ["u_emotion", "u_topic", "a_motivation"]
    encoder, plain = ReplyEncoder(words.tokenizer), PlainScorer(words.model)
    totals: dict[Any, float] = {}
    for chain in CHAINS.all():
        (encoded,) = encoder.encode(HISTORY, [blocks_text(chain)], REPLY)
        beginning = encoded.up_to(value_end(chain, "a_motivation"))
        value = plain.score([beginning], encoded.first)[0].sum()
        totals[chain[3]] = totals.get(chain[3], 0.0) + math.exp(value)
    assert {value: math.exp(score) for value, score in found.labels["a_motivation"].items()} == pytest.approx(
        totals, rel=1e-3
    )


def test_sampled_chains_estimate_the_same_sum(words: Tiny) -> None:
    """The mean of the estimates over many draws is the sum over the set, and so are the predictions."""
    exact = chain_scorer(words).marginal(HISTORY, REPLY, CHAINS, random())
    assert exact is not None
    scorer = chain_scorer(words, max_chains=3, samples=40)
    found = [scorer.marginal(HISTORY, REPLY, CHAINS, np.random.Generator(np.random.PCG64(seed))) for seed in range(12)]
    ratios = [math.exp(each.log_probability - exact.log_probability) for each in found if each is not None]
    assert len(ratios) == 12 and {each.estimate for each in found if each} == {EXPECTED_BOUND}
    assert np.mean(ratios) == pytest.approx(1.0, abs=4 * np.std(ratios) / math.sqrt(12) + 1e-3) and np.std(ratios) < 0.5
    for value, score in exact.labels["a_motivation"].items():
        of_draws = [math.exp(each.labels["a_motivation"][value] - score) for each in found if each is not None]
        assert np.mean(of_draws) == pytest.approx(1.0, abs=0.15), value
    again = scorer.marginal(HISTORY, REPLY, CHAINS, np.random.Generator(np.random.PCG64(0)))
    assert again == found[0]


def test_a_reply_that_does_not_fit_the_window_is_none(words: Tiny) -> None:
    assert chain_scorer(words, window=40).marginal(HISTORY, REPLY, CHAINS, random()) is None
    assert chain_scorer(words, window=10).plain(HISTORY, REPLY) is None


@pytest.mark.parametrize("budget", [1, 3, 100])
def test_a_tree_gives_the_numbers_of_plain_passes_from_call_to_call(words: Tiny, budget: int) -> None:
    """Calls of a growing, a shorter and another text, which reuse what was read before."""
    tree, plain = TreeScorer(words.model, budget), PlainScorer(words.model)
    draw = torch.Generator().manual_seed(budget)
    ids = torch.randint(2, 300, (40,), generator=draw).tolist()
    for text in (ids[:9], ids[:20], ids[:6], [*ids[:4], 5, 6], ids[:1]):
        sequences = [[*text, 7, 8, 9], [*text, 7, 8, 10, 11, 12], [*text, 7], [*text, 13, 8, 9], [*text, 7, 8, 9]]
        for first in {1, len(text)}:
            for one, other in zip(tree.score(sequences, first), plain.score(sequences, first), strict=True):
                assert one == pytest.approx(other, abs=1e-4)


def test_no_token_of_a_tree_is_computed_twice() -> None:
    tree = prefix_tree(1, [[2, 3, 4], [2, 5], [2, 3, 4], [6]])
    assert tree.tokens == [1, 2, 3, 4, 5, 6] and tree.parents == [-1, 0, 1, 2, 1, 0]
    assert tree.paths == [[1, 2, 3], [1, 4], [1, 2, 3], [5]] and tree.depths == [0, 1, 2, 3, 2, 1]


def test_a_model_whose_attention_takes_no_tree_is_computed_plainly(
    words: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(choose_scorer(words.model, "sage_1"), TreeScorer)
    monkeypatch.setattr(
        token_tree.TreeScorer, "_mask", lambda self, tree, kept, chunk, length: None
    )  # as layers that ignore it
    assert isinstance(choose_scorer(words.model, "sage_1"), PlainScorer)
    assert "each is computed alone" in caplog.text


def test_damaged_weights_are_named(words: Tiny) -> None:
    damaged = tiny("words")
    damaged.model.model.embed_tokens.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"policy 'sage_1' gives logits that are not finite"):
        choose_scorer(damaged.model, "sage_1")


def test_the_set_is_of_the_values_that_training_had() -> None:
    chains = [
        Chain(Intent(None, emotion, topics), Intent(motivation), "")
        for emotion, topics, motivation in [("sad", (), "humor"), ("sad", ("cats",), None), ("calm", (), "humor")]
    ]
    known = chain_set(chains)
    assert known.values["u_emotion"] == ("sad", "calm") and known.values["a_motivation"] == ("humor", None)
    assert known.values["u_topic"] == ((), ("cats",)) and known.values["a_topic"] == ((),) and known.size == 8
    assert known.varying == ["u_emotion", "u_topic", "a_motivation"]
    assert known.opening().varying == ["a_motivation"] and known.at_most(1).size == 1
    with pytest.raises(ValueError, match="no reply of the training conversations"):
        chain_set([])


def test_a_field_ends_with_the_character_that_ends_its_value() -> None:
    labels = ("humor", None, ("dogs", "cats"), "comfort", "calm", ())
    text = blocks_text(labels)
    ends = [text[: value_end(labels, field)] for field in FIELDS]
    assert [end[-7:] for end in ends] == ["humor,", " null,", " cats]", "mfort,", " calm,", "ic: []"] or [
        end.rsplit(" ", 1)[1] for end in ends
    ] == ["humor,", "null,", "cats]", "comfort,", "calm,", "[]"]


def test_an_ablation_reads_the_labels_that_its_text_has() -> None:
    labels = ("humor", "sad", ("dogs",), "comfort", "calm", ("cats",))
    assert in_arm(labels, arm_of("sage_1_emotion")) == (None, "sad", (), None, None, ())
    assert in_arm(labels, arm_of("sage_1_action")) == (None, None, (), "comfort", "calm", ("cats",))
    assert {in_arm(labels, arm_of(policy)) for policy in ("sage_1", "sage_2", "sage_1_shuffled")} == {labels}
