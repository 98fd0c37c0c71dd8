"""What supervised and preference training share: the base, the adapter that goes on, the finished policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from sage_dialog.config import Launcher, LoraSettings, Training
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.seeds import derived_seed, sample_ids
from sage_dialog.schemas import TRAINING_REJECTS
from sage_dialog.training.callbacks import training_log, watch
from sage_dialog.training.checkpoints import Trained, TrainingRunDir, train_on, whole_weights
from sage_dialog.training.early_stopping import stop_early
from sage_dialog.training.full_weights import full_adapter, is_full, trainable
from sage_dialog.training.quantization import loading, quantize_experts

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

logger = logging.getLogger(__name__)
Row = TypeVar("Row")


def seed_torch(seed: int, purpose: str, name: str, threads: int | None) -> int:
    """Seed everything that trains; returns the seed for the Trainer, which draws data order from it."""
    import torch
    from transformers import set_seed

    if threads is not None:
        torch.set_num_threads(threads)
    trainer_seed = derived_seed(seed, purpose, name) % 2**31
    set_seed(trainer_seed)
    return trainer_seed


def arguments_of(
    config: Training, launcher: Launcher, seed: int, held_out: Sequence[object], place: TrainingRunDir
) -> dict[str, Any]:
    """What every Trainer of this project is told: bf16 where a GPU has it, plain fp32 on the CPU, nothing shipped.

    Args:
        held_out: rows to measure on, ten times and at the end; none, and nothing is measured.
    """
    import torch

    cuda, rows = torch.cuda.is_available(), launcher.rows_at_once(config.batch_size)
    measuring = {"eval_strategy": "steps", "eval_steps": 0.1, "per_device_eval_batch_size": rows} if held_out else {}
    return {
        "output_dir": str(place.trainer),
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
        "gradient_checkpointing": config.gradient_checkpointing,
        "max_length": None,  # `fitting` has seen to it
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        "report_to": "none",
        "save_strategy": "no",  # `checkpoints.train_on` says when
        "logging_steps": 0.01,  # of all steps
        "include_num_input_tokens_seen": "non_padding",
        "disable_tqdm": True,  # `watching.watch` has a bar
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,  # a step uses every weight that is trained
        **measuring,
    }


def load_tokenizer(base: Policy) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path)


def load_model(base: Policy, quantization: str | None) -> PreTrainedModel:
    """The base in its own precision, or in that of `quantization`."""
    from transformers import AutoModelForCausalLM

    how = loading(quantization) if quantization else {}
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype="auto", use_safetensors=True, **how)
    if quantization:
        quantize_experts(model, quantization)
    return model


def fitting(
    name: str, what: str, rows: Sequence[tuple[str, Row]], length: Callable[[Row], int], max_length: int
) -> tuple[list[tuple[str, Row]], pa.Table]:
    """The rows, each with its id, of at most `max_length` tokens; and the others (schemas.TRAINING_REJECTS), never cut.

    Raises:
        ValueError: if none is left to train `name` on.
    """
    lengths = [length(row) for _, row in rows]
    kept = [row for row, tokens in zip(rows, lengths, strict=True) if tokens <= max_length]
    training_rejects = [
        {"row": row, "tokens": tokens, "max_length": max_length}
        for (row, _), tokens in zip(rows, lengths, strict=True)
        if tokens > max_length
    ]
    if training_rejects:
        logger.warning(
            "%s: %d of %d %s exceed %d tokens and are left out; training_rejects_%s lists them",
            *(name, len(training_rejects), len(rows), what, max_length, name),
        )
    if not kept:
        raise ValueError(
            f"{name}: no {what} to train on ({len(rows)} given, {len(training_rejects)} over {max_length} tokens)"
        )
    return kept, pa.Table.from_pylist(training_rejects, schema=TRAINING_REJECTS)


def apart(
    name: str, rows: Sequence[tuple[str, Row]], groups: Sequence[str], share: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to learn from, and rows held out to measure on: a `share` of the groups, drawn by seed.

    The name has no part in it: `sage_1` and its ablation learn from the same dialogues, and what is held out of a
    training was mostly held out, too, of those that it goes on from.

    Args:
        groups: of each row; what belongs together is on one side.

    Raises:
        ValueError: if a share is asked for and one of the sides would be empty.
    """
    names = sorted(set(groups))
    drawn = set(sample_ids(names, round(share * len(names)), seed, "held out")) if share else set()
    if share and not 0 < len(drawn) < len(names):
        raise ValueError(
            f"{name}: held_out {share} of {len(names)} leaves nothing to {'learn from' if drawn else 'measure on'}"
        )
    sides: tuple[list[Row], list[Row]] = ([], [])
    for (_, row), group in zip(rows, groups, strict=True):
        sides[group in drawn].append(row)
    return sides


def tables_for(learnt: Sequence[Row], held_out: Sequence[Row]) -> dict[str, Any]:
    """The rows as a Trainer takes them."""
    from datasets import Dataset

    measured = Dataset.from_list(held_out) if held_out else None
    return {"train_dataset": Dataset.from_list(learnt), "eval_dataset": measured}


def trained(
    trainer: Trainer,
    name: str,
    base: Policy,
    start: Policy | None,
    blocks: bool,
    patience: int | None,
    training_rejects: pa.Table,
    place: TrainingRunDir,
) -> Trained:
    """Train to the end, seen and kept on the way; what came of it. Of several processes the first keeps it.

    Raises:
        ValueError: if all weights are trained under FSDP, which cannot take them as an adapter.
    """
    if trainer.is_fsdp_enabled and is_full(trainer.model):
        raise ValueError(f"{name}: all weights (sft.lora: null) are trained by DDP or ZeRO-3, not by FSDP")
    watch(trainer, name)
    if patience is not None:
        stop_early(trainer, name, patience, place)
    train_on(trainer, name, place)
    weights = whole_weights(trainer.model, first=trainer.is_world_process_zero())
    if trainer.is_world_process_zero():
        log = training_log(trainer.state.log_history)
        place.finish(
            log, training_rejects, lambda out: save_adapter(trainer.model, weights, name, base, start, blocks, out)
        )
    trainer.accelerator.wait_for_everyone()
    return place.trained()


def fresh_adapter(model: PreTrainedModel, lora: LoraSettings | None) -> PeftModel:
    """An adapter that changes nothing yet: of all weights where there are no parameters. Its name is "default".

    Raises:
        ValueError: if it would have the experts of a base in 4 bits, which PEFT passes over.
    """
    from peft import LoraConfig, get_peft_model

    if lora is None:
        return full_adapter(model)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        target_parameters=list(lora.target_parameters) or None,
        task_type="CAUSAL_LM",
    )
    adapter = get_peft_model(model, config)
    if getattr(model, "is_quantized", False) and (fused := adapter.peft_config["default"].target_parameters):
        raise ValueError(
            f"sft.lora.target_modules {lora.target_modules} means {', '.join(sorted(fused))}, too, which quantization "
            "packs in 4 bits; name the layers, such as [q_proj, v_proj]"
        )
    return adapter


def continued_adapter(model: PreTrainedModel, base: Policy, start: Policy) -> PeftModel:
    """The adapter of `start`, going on. Its name is "default".

    Raises:
        ValueError: if `start` is no adapter, or was trained on another base than this one.
    """
    from peft import PeftModel

    if start.card.kind != "adapter":
        raise ValueError(f"{start.name} at {start.path} is a base; only an adapter can go on")
    if start.card.base_revision != base.card.base_revision:
        raise ValueError(
            f"{start.name} at {start.path} is an adapter on {start.card.base} {start.card.base_revision[:12]}, but the "
            f"base at {base.path} is {base.card.base_revision[:12]}; train {start.name} again on this base"
        )
    adapter = PeftModel.from_pretrained(model, str(start.path), is_trainable=True)
    adapter.peft_config["default"].base_model_name_or_path = str(base.path)  # checkpoints look there, not on a hub
    return trainable(adapter)


def save_adapter(
    model: PeftModel,
    weights: Mapping[str, torch.Tensor],
    name: str,
    base: Policy,
    start: Policy | None,
    blocks: bool,
    out: Path,
) -> Policy:
    """Write the adapter alone, with its card; its bytes depend neither on the base's path nor on the order of a set.

    Args:
        weights: of the adapter, by the model's own names (`whole_weights`).
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path = base.card.base
    for field, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, field, sorted(value))
    model.save_pretrained(str(out), state_dict=weights, selected_adapters=["default"], save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    card = PolicyCard(
        name=name,
        kind="adapter",
        blocks=blocks,
        base=base.card.base,
        base_revision=base.card.base_revision,
        parent=start.name if start else base.name,
        parent_revision=(start or base).revision(),
    )
    return Policy.write_card(out, card)
