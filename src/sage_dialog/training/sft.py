"""Supervised fine-tuning with LoRA (paper §3.3, §3.4): loss on assistant messages only."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from sage_dialog.parameters import FineTuning, LoraDials
from sage_dialog.policies import Policy
from sage_dialog.training.adapters import (
    TRAINER_DEFAULTS,
    continued_adapter,
    device_arguments,
    fitting,
    fresh_adapter,
    load_base,
    quiet_libraries,
    save_adapter,
    seed_torch,
    show_progress,
    trainer_folder,
)


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
        ValueError: if nothing is left to train on, or `start` is no adapter on this base.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    quiet_libraries()
    trainer_seed = seed_torch(seed, "sft", name, threads)
    model, tokenizer = load_base(base)
    rows = fitting(
        name,
        "conversations",
        [{"messages": messages} for messages in conversations["messages"].to_pylist()],
        lambda row: len(tokenizer.apply_chat_template(row["messages"], tokenize=True)["input_ids"]),
        dials.max_length,
    )
    arguments = SFTConfig(
        output_dir=str(trainer_folder(out)),
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
    adapter = fresh_adapter(model, lora) if start is None else continued_adapter(model, base, start)
    trainer = SFTTrainer(
        model=adapter, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    show_progress(trainer, name)
    trainer.train()
    return save_adapter(trainer.model, name, base, start, blocks, out)
