"""Training of the demo's `sage_0`: a tokenizer and a Mixtral of about a million parameters, from scratch."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from sage_dialog.config import BaseModelConfig
from sage_dialog.core.hub_models import BASE
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.core.seeds import derived_seed, generator
from sage_dialog.microworld.base_text import Document

CONTEXT = 1024
END = "<|end|>"
PAD = "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# `{% generation %}` marks the tokens of the loss: assistant text and the end of its turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_base(
    documents: list[Document],
    config: BaseModelConfig,
    seed: int,
    out: Path,
    threads: int | None = None,
    name: str = BASE,
) -> Policy:
    """Train tokenizer and model on `documents` and write them to `out` as the base `name`.

    A batch is `batch_size` complete documents of similar length. Without packing even so small a model learns to read.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    tokenizer = train_tokenizer(documents, config.vocabulary)
    rows = [_encode(tokenizer, document) for document in documents]
    model = _init_model(config, tokenizer, seed)
    batches = _batches(rows, config, seed)
    optimisers = _optimisers(model, config.learning_rate)
    schedules = [LambdaLR(optimiser, lambda step: _rate(step, config.steps)) for optimiser in optimisers]
    model.train()
    progress = tqdm(batches, desc=f"pretraining {name}", unit="step", mininterval=1.0)
    for step, batch in enumerate(progress):
        ids, mask = _pad([rows[i] for i in batch], tokenizer.pad_token_id)
        if config.last_message_weight == 1:
            loss = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        else:
            weights = mask * _last_message(ids, tokenizer).mul(config.last_message_weight - 1).add(1)
            loss = _weighted_loss(model(input_ids=ids, attention_mask=mask).logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        model.zero_grad(set_to_none=True)
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return Policy.write_card(out, PolicyCard(name, "base", False, name, weights_revision(out)))


def train_tokenizer(documents: list[Document], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE whose words keep `_` and a closing colon, so that a key of a block is one token."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[\p{L}\p{N}_']+:?| ?[^\s\p{L}\p{N}_']+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_text(document) for document in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _text(document: Document) -> str:
    if "text" in document:
        return str(document["text"])
    return "\n".join(message["content"] for message in document["messages"])  # type: ignore[attr-defined]


def _encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    if "text" in document:
        return [*tokenizer(document["text"])["input_ids"], tokenizer.eos_token_id]
    return list(tokenizer.apply_chat_template(document["messages"], tokenize=True)["input_ids"])


def _init_model(config: BaseModelConfig, tokenizer: PreTrainedTokenizerFast, seed: int) -> MixtralForCausalLM:
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.expert_hidden,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        num_local_experts=config.experts,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.06,
        sliding_window=None,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        experts_implementation="eager",
    )
    torch.manual_seed(derived_seed(seed, "base weights") % 2**63)
    return MixtralForCausalLM(config)


def _optimisers(model: MixtralForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the attention matrices and AdamW for the rest."""
    attention = [weight for name, weight in model.named_parameters() if "self_attn" in name]
    others = [weight for name, weight in model.named_parameters() if "self_attn" not in name]
    return [
        torch.optim.Muon(attention, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def _batches(rows: list[list[int]], config: BaseModelConfig, seed: int) -> list[list[int]]:
    """Return `steps` batches of row numbers, of similar length within a batch, in an order drawn by seed."""
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < config.steps:
        rng = generator(seed, "pretraining order", epoch)
        jitter = rng.random(len(rows)) * 8
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]) + jitter[i])
        whole = [by_length[i : i + config.batch_size] for i in range(0, len(rows), config.batch_size)]
        batches += [whole[i] for i in rng.permutation(len(whole))]
        epoch += 1
    return batches[: config.steps]


def _pad(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.int64) for row in rows], batch_first=True)
    return ids, mask


def _last_message(ids: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Return 1 for the tokens behind the last role of each row, 0 for others."""
    roles = torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(list(ROLES)))).int()
    return (roles.flip(1).cumsum(1).flip(1) == 0).int()


def _weighted_loss(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


def _rate(step: int, steps: int) -> float:
    """Linear warm-up over 3 %, constant to 60 %, then linear decay to a twentieth."""
    warm, hold = max(1, round(0.03 * steps)), 0.6 * steps
    decay = 1.0 - 0.95 * max(0.0, step - hold) / (steps - hold)
    return min((step + 1) / warm, decay)
