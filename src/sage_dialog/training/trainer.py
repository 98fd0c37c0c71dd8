"""What supervised and preference tuning share: seeds, data splits, trainer arguments, and the run of the trainer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, set_seed

from sage_dialog.core.log_filters import silence_libraries
from sage_dialog.core.seeds import derived_seed, sample_ids
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.schemas import TRAINING_REJECTS
from sage_dialog.training.adapters import gather_weights, save_adapter
from sage_dialog.training.callbacks import CheckpointCallback, EarlyStopping, TrainingProgress, training_log
from sage_dialog.training.full_weights import is_full
from sage_dialog.training.job import TrainingJob
from sage_dialog.training.label_logits import logits_at_labels_only
from sage_dialog.training.run_dir import TrainingRunDir, checkpoint_fault

logger = logging.getLogger(__name__)


def seed_training(job: TrainingJob) -> int:
    """Silence the libraries, seed all random states, and return the seed of the Trainer, which shuffles the data."""
    silence_libraries()
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    seed = derived_seed(job.seed, job.kind, (job.start or job.base).name) % 2**31
    set_seed(seed)
    return seed


def filter_by_length(name: str, what: str, examples: DataFrame, max_length: int) -> tuple[DataFrame, DataFrame]:
    """Split training examples into those of at most `max_length` tokens and the rejects (schemas.TRAINING_REJECTS).

    Args:
        examples: with the columns `row`, an id, and `tokens`.

    Raises:
        ValueError: if no example is left.
    """
    fits = examples["tokens"] <= max_length
    rejects = [{**row, "max_length": max_length} for row in examples.loc[~fits, ["row", "tokens"]].to_dict("records")]
    if rejects:
        logger.warning(
            "%s: %d of %d %s exceed %d tokens and are left out; see training_rejects_%s",
            *(name, len(rejects), len(examples), what, max_length, name),
        )
    if not fits.any():
        raise ValueError(
            f"{name}: no {what} to train on ({len(examples)} given, {len(rejects)} over {max_length} tokens)"
        )
    return examples[fits], from_rows(rejects, TRAINING_REJECTS)


def train_eval_split(name: str, examples: DataFrame, share: float, seed: int) -> tuple[DataFrame, DataFrame]:
    """Split training examples by the column `group`; a `share` of the groups, drawn by seed, is held out.

    The draw is independent of the policy's name: `sage_1` and its ablation train on the same dialogues, and most
    dialogues held out of a training were held out of the trainings before it.

    Raises:
        ValueError: if the share is not zero and one of the splits is empty.
    """
    groups = sorted(set(examples["group"]))
    drawn = sample_ids(groups, round(share * len(groups)), seed, "held out") if share else []
    if share and not 0 < len(drawn) < len(groups):
        raise ValueError(
            f"{name}: held_out {share} of {len(groups)} leaves nothing to {'train' if drawn else 'evaluate'} on"
        )
    held_out = examples["group"].isin(drawn)
    return examples[~held_out], examples[held_out]


def trainer_datasets(train: DataFrame, held_out: DataFrame, columns: Sequence[str]) -> dict[str, Dataset | None]:
    """Return the datasets of a Trainer, with the given columns."""
    train_dataset, eval_dataset = (
        Dataset.from_list(split[list(columns)].to_dict("records")) if len(split) else None
        for split in (train, held_out)
    )
    return {"train_dataset": train_dataset, "eval_dataset": eval_dataset}


def trainer_arguments(job: TrainingJob, seed: int, evaluate: bool, run_dir: TrainingRunDir) -> dict[str, Any]:
    """Return the arguments of every Trainer: bf16 where a GPU has it, else fp32; no reports, no checkpoints by step.

    Args:
        evaluate: ten times during the training, and at its end.
    """
    config, launcher = job.config, job.launcher
    cuda, rows = torch.cuda.is_available(), launcher.rows_at_once(config.batch_size)
    evaluation = {"eval_strategy": "steps", "eval_steps": 0.1, "per_device_eval_batch_size": rows} if evaluate else {}
    return {
        "output_dir": str(run_dir.trainer),
        "seed": seed,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": launcher.gradient_accumulation_steps,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_ratio,
        "lr_scheduler_type": config.lr_scheduler_type,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "router_aux_loss_coef": config.router_aux_loss_coef,
        "gradient_checkpointing": config.gradient_checkpointing,
        "max_length": None,  # see `filter_by_length`
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "report_to": "none",
        "save_strategy": "no",  # see `CheckpointCallback`
        "logging_steps": 0.01,  # of all steps
        "include_num_input_tokens_seen": "non_padding",
        "disable_tqdm": True,  # see `TrainingProgress`
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,  # every step uses every trained weight
        **evaluation,
    }


def run_trainer(trainer: Trainer, job: TrainingJob, training_rejects: DataFrame, run_dir: TrainingRunDir) -> None:
    """Train to the end, from the latest checkpoint where there is one, and save the result from the first process.

    Raises:
        ValueError: if all weights are trained with FSDP, which cannot wrap them as an adapter, or the checkpoint is
            damaged.
    """
    if trainer.is_fsdp_enabled and is_full(trainer.model):
        raise ValueError(
            f"{job.name}: FSDP cannot train all weights; train with DDP or ZeRO-3, or set the parameters of sft.lora"
        )
    if job.config.logits_at_labels_only and not torch.cuda.is_available():
        logits_at_labels_only(trainer.model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TrainingProgress(job.name))
    stopping = job.config.patience and EarlyStopping(trainer, job.name, job.config.patience, run_dir)
    if stopping:
        trainer.add_callback(stopping)
    trainer.add_callback(CheckpointCallback(trainer, run_dir))
    if checkpoint := run_dir.checkpoint:
        if fault := checkpoint_fault(checkpoint):
            raise ValueError(
                f"{job.name}: the checkpoint {checkpoint} of an interrupted run is damaged: {fault}. Remove this "
                "folder, and the training begins anew"
            )
        logger.info("%s resumes from %s of an interrupted run", job.name, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    if stopping and math.isfinite(stopping.loss):
        weights = stopping.best
    else:
        weights = gather_weights(trainer.model, first=trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        log = training_log(trainer.state.log_history)
        run_dir.save_result(log, training_rejects, lambda out: save_adapter(trainer.model, weights, job, out))
    trainer.accelerator.wait_for_everyone()
