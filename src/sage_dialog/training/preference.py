"""Direct preference optimisation on chosen and rejected candidates (paper §3.5)."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from sage_dialog.parameters import Preference
from sage_dialog.policies import Policy
from sage_dialog.seeds import sample_ids
from sage_dialog.training.adapters import (
    TRAINER_DEFAULTS,
    continued_adapter,
    device_arguments,
    fitting,
    load_base,
    quiet_libraries,
    save_adapter,
    seed_torch,
    show_progress,
    trainer_folder,
)


def prefer(
    name: str,
    base: Policy,
    start: Policy,
    pairs: pa.Table,
    dials: Preference,
    seed: int,
    out: Path,
    threads: int | None = None,
) -> Policy:
    """Continue the adapter of `start` by DPO on `pairs` (schemas.DPO_PAIRS) and write it to `out` as `name`.

    The reference is the starting policy, as DPO defines it. Pairs that do not fit into `max_length` tokens
    are left out and counted, never cut.

    Raises:
        ValueError: if no pair is left, or `start` is no adapter on this base.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    quiet_libraries()
    trainer_seed = seed_torch(seed, "dpo", name, threads)
    model, tokenizer = load_base(base)
    rows = fitting(
        name, "pairs", _conversational(pairs, dials, seed), lambda row: _length(tokenizer, row), dials.max_length
    )
    sft_term = dials.sft_weight > 0
    arguments = DPOConfig(
        output_dir=str(trainer_folder(out)),
        learning_rate=dials.learning_rate,
        per_device_train_batch_size=dials.batch_size,
        num_train_epochs=dials.epochs,
        beta=dials.beta,
        loss_type=["sigmoid", "sft"] if sft_term else ["sigmoid"],
        loss_weights=[1.0, dials.sft_weight] if sft_term else None,
        max_length=None,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        seed=trainer_seed,
        **TRAINER_DEFAULTS,
        **device_arguments(),
    )
    adapter = continued_adapter(model, base, start)
    trainer = DPOTrainer(
        model=adapter, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    show_progress(trainer, name)
    trainer.train()
    return save_adapter(trainer.model, name, base, start, start.card.blocks, out)


def _conversational(pairs: pa.Table, dials: Preference, seed: int) -> list[dict[str, list[dict[str, str]]]]:
    rows = {f"{row['situation_id']} {row['turn']}": row for row in pairs.to_pylist()}
    return [
        {
            "prompt": rows[key]["prompt"],
            "chosen": [{"role": "assistant", "content": rows[key]["chosen"]}],
            "rejected": [{"role": "assistant", "content": rows[key]["rejected"]}],
        }
        for key in sample_ids(list(rows), dials.pairs, seed, "dpo pairs")
    ]


def _length(tokenizer, row: dict[str, list[dict[str, str]]]) -> int:  # type: ignore[no-untyped-def]
    """Tokens of the longer of the two sides, prompt included."""
    return max(
        len(tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=True)["input_ids"])
        for side in ("chosen", "rejected")
    )
