"""Small models trained to write state-action chains, with three kinds of tokenizers.

"words" splits at words, as most byte-level tokenizers do. Tokens of "merged" cross all boundaries, so that one may
hold the end of a value and the beginning of the next. "pieces" is like SentencePiece: a token includes its leading
space, and the first space of a reply is dropped.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from kedro.io import Version

from sage_dialog.core.policies import CARD, Policy, PolicyCard, weights_revision
from sage_dialog.datasets.policy import PolicyDirectory
from sage_dialog.sac import Chain, Intent, render

MOTIVATIONS = ("humor", "humility", "comfort", "seeking advice")
EMOTIONS = ("playful", "calm", "sad")
TOPICS = ("music", "family dinner", "dogs", "cats")
TEMPLATE = (
    "{% for message in messages %}{{ '<go>' + message['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}<go>{% endif %}"
)
SPACED_TEMPLATE = TEMPLATE.replace("'<go>'", "'<go> '")
END, SPARE = 0, 7
"""The end token; the number of logits beyond the last token, as of padded embeddings."""


def random_chain(rng: random.Random) -> Chain:
    def intent() -> Intent:
        topics = rng.sample(TOPICS, rng.randrange(3))
        return Intent(rng.choice([*MOTIVATIONS, None]), rng.choice([*EMOTIONS, None]), tuple(topics))

    return Chain(intent(), intent(), rng.choice(["So it is. Why?", "Tell me more, friend.", "Yes: {you}!"]))


CHAINS = [random_chain(random.Random(number)) for number in range(600)]


def byte_level(split: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<end>", "<go>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(map(render, CHAINS), trainer)
    return tokenizer


def sentence_pieces() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = metaspace
    trained.train_from_iterator(map(render, CHAINS), trainers.BpeTrainer(vocab_size=160, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    vocabulary = ["<end>", "<go>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: token for token, piece in enumerate(dict.fromkeys(vocabulary))},
            [tuple(merge) for merge in model["merges"]],
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(["<end>", "<go>"])
    tokenizer.pre_tokenizer = metaspace
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "words": lambda: byte_level(True),
    "merged": lambda: byte_level(False),
    "pieces": sentence_pieces,
}


def shared_block_writer(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Return the block writer of the whole test run: the first worker that needs it trains it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / f"block_writer_{kind}.lock"):
        if not (folder / f"block_writer_{kind}" / CARD).exists():  # written last
            block_writer(kind, folder / f"block_writer_{kind}")
    return Policy.open(folder / f"block_writer_{kind}")


def save_policy(policy: Policy, data: Path) -> None:
    """Save a policy in the catalog of a data folder."""
    version = Version(None, "2026-01-01T00.00.00.000Z")
    PolicyDirectory(filepath=str(data / "06_models" / policy.name), version=version).save(policy)


def block_writer(kind: str, path: Path) -> Policy:
    """Train a model of 50,000 parameters, most of whose chains parse."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZERS[kind](),
        eos_token="<end>",
        pad_token="<end>",
        chat_template=SPACED_TEMPLATE if kind == "pieces" else TEMPLATE,
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer) + SPARE,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=END,
        )
    )
    user_message = {"role": "user", "content": "x"}
    rows = [
        tokenizer.apply_chat_template([user_message, {"role": "assistant", "content": render(chain)}])["input_ids"]
        for chain in CHAINS
    ]
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(110):
        batch = [rows[(16 * step + place) % len(rows)] for place in range(16)]
        width = max(map(len, batch))
        ids = torch.tensor([row + [END] * (width - len(row)) for row in batch])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in batch])
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Policy.write_card(path, PolicyCard("sage_1", "base", True, "sage_1", weights_revision(path)))
