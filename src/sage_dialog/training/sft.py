"""Supervised fine-tuning with LoRA (paper §3.3, §3.4): loss on assistant messages only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from sage_dialog.parameters import FineTuning, LoraDials
from sage_dialog.policies import Policy
from sage_dialog.training.adapters import (
    TRAINER_DEFAULTS,
    device_arguments,
    load_base,
    quiet_libraries,
    save_adapter,
    seed_torch,
    show_progress,
    trainable_adapter,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def fine_tune(
    name: str,
    base: Policy,
    start: Policy | None,
    conversations: pa.Table,
    dials: FineTuning,
    lora: LoraDials,
    seed: int,
    out: Path,
    blocks: bool,
    threads: int | None = None,
) -> Policy:
    """Train `name` on `conversations` (schemas.SFT_CONVERSATIONS) and write it to `out`.

    A fresh adapter on the base where `start` is None, else the adapter of `start` goes on. Conversations
    longer than `max_length` tokens are left out and counted, never cut.

    Raises:
        ValueError: if nothing is left to train on, or `start` belongs to another base.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    quiet_libraries()
    trainer_seed = seed_torch(seed, "sft", name, threads)
    model, tokenizer = load_base(base)
    rows = _fitting(name, conversations, tokenizer, dials.max_length)
    arguments = SFTConfig(
        output_dir=str(out / "trainer"),
        learning_rate=dials.learning_rate,
        per_device_train_batch_size=dials.batch_size,
        num_train_epochs=dials.epochs,
        max_steps=dials.max_steps or -1,
        warmup_steps=dials.warmup_share,
        lr_scheduler_type=dials.schedule,
        max_length=None,
        assistant_only_loss=True,
        seed=trainer_seed,
        **TRAINER_DEFAULTS,
        **device_arguments(),
    )
    adapter = trainable_adapter(model, base, start, lora)
    trainer = SFTTrainer(
        model=adapter, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    show_progress(trainer, name)
    trainer.train()
    return save_adapter(trainer.model, name, base, start, blocks, out)


def _fitting(
    name: str, conversations: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, object]]:
    rows = [{"messages": row} for row in conversations["messages"].to_pylist()]
    lengths = [len(tokenizer.apply_chat_template(row["messages"], tokenize=True)["input_ids"]) for row in rows]
    kept = [row for row, length in zip(rows, lengths, strict=True) if length <= max_length]
    if left_out := len(rows) - len(kept):
        logger.warning(
            "%s: %d of %d conversations exceed %d tokens and are left out", name, left_out, len(rows), max_length
        )
    if not kept:
        raise ValueError(
            f"{name}: no conversation to train on ({len(rows)} given, {left_out} over {max_length} tokens)"
        )
    return kept
