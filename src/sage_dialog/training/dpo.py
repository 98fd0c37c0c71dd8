"""Preference tuning: direct preference optimisation on chosen and rejected candidates (paper §3.5)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from sage_dialog.config import Launcher, Preference
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.inference.chat_format import TEMPLATE_ARGUMENTS, ChatFormat
from sage_dialog.training.adapters import load_adapter, load_model
from sage_dialog.training.full_weights import copy_to_reference
from sage_dialog.training.job import TrainingJob
from sage_dialog.training.launch import IN_PROCESS, launch_training
from sage_dialog.training.run_dir import TrainingResult, TrainingRunDir
from sage_dialog.training.trainer import (
    filter_by_length,
    run_trainer,
    seed_training,
    train_eval_split,
    trainer_arguments,
    trainer_datasets,
)


def preference_tune(
    name: str,
    base: Policy,
    start: Policy,
    pairs: DataFrame,
    config: Preference,
    seed: int,
    scratch: Path,
    threads: int | None = None,
    launcher: Launcher = IN_PROCESS,
) -> TrainingResult:
    """Train the adapter of `start` further by DPO; a killed training resumes when it is called again.

    The reference model is the starting policy, as DPO defines it.

    Args:
        pairs: schemas.DPO_PAIRS; those over `config.max_length` tokens are rejected, never cut.

    Raises:
        ValueError: if no pair is left, chosen and rejected of one are equal, or `start` is no adapter on this base.
    """
    blocks = start.card.blocks
    job = TrainingJob("dpo", name, base, start, pairs, config, None, blocks, seed, threads, launcher)
    return launch_training(job, train_dpo, scratch)


def train_dpo(job: TrainingJob, run_dir: TrainingRunDir) -> None:
    """Run a preference tuning job, in each of its processes."""
    config = job.config
    assert isinstance(config, Preference) and job.start is not None
    seed = seed_training(job)
    tokenizer = AutoTokenizer.from_pretrained(job.base.path)
    examples = _examples(ChatFormat(tokenizer), job.rows, config, job.seed)
    examples, training_rejects = filter_by_length(job.name, "pairs", examples, config.max_length)
    train, held_out = train_eval_split(job.name, examples, config.held_out, job.seed)
    with_sft = config.sft_weight > 0
    arguments = DPOConfig(
        beta=config.beta,
        loss_type=[config.loss_type, "sft"] if with_sft else [config.loss_type],
        loss_weights=[1.0, config.sft_weight] if with_sft else None,
        **trainer_arguments(job, seed, len(held_out) > 0, run_dir),
    )
    model = load_model(job.base, config.quantization)  # after the arguments, which may shard it over the processes
    trainer = DPOTrainer(
        model=load_adapter(model, job.base, job.start),
        args=arguments,
        processing_class=tokenizer,
        **trainer_datasets(train, held_out, ["prompt", "chosen", "rejected", "chat_template_kwargs"]),
    )
    copy_to_reference(trainer.model)
    run_trainer(trainer, job, training_rejects, run_dir)


def _examples(chat: ChatFormat, pairs: DataFrame, config: Preference, seed: int) -> DataFrame:
    """Return a sample of the pairs as training examples; ids are situation and turn, with a number from the second on.

    Raises:
        ValueError: if chosen and rejected of a pair are equal.
    """
    rows: dict[str, dict[str, Any]] = {}
    count: Counter[str] = Counter()
    for row in to_rows(pairs):
        turn = f"{row['situation_id']} {row['turn']}"
        if row["chosen"] == row["rejected"]:
            raise ValueError(f"dpo_pairs: chosen and rejected of {turn} are equal; run make_pairs again")
        count[turn] += 1
        rows[turn if count[turn] == 1 else f"{turn} {count[turn]}"] = row
    examples = []
    for pair_id in sample_ids(list(rows), config.pairs, seed, "dpo pairs"):
        row = rows[pair_id]
        prompt = chat.place_system_prompt(row["prompt"])
        replies = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        tokens = max(len(chat.tokens([*prompt, *reply])) for reply in replies.values())
        example = {"prompt": prompt, **replies, "chat_template_kwargs": {**TEMPLATE_ARGUMENTS}}
        examples.append({"row": pair_id, "group": row["situation_id"], "tokens": tokens, **example})
    columns = ["row", "group", "tokens", "prompt", "chosen", "rejected", "chat_template_kwargs"]
    return pd.DataFrame(examples, columns=columns)
