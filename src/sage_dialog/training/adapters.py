"""What supervised and preference training share: the base, the adapter that goes on, the finished policy."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from sage_dialog.parameters import LoraDials
from sage_dialog.policies import Policy, PolicyCard
from sage_dialog.schemas import LEFT_OUT
from sage_dialog.seeds import derived_seed, sample_ids
from sage_dialog.training.checkpoints import Trained, Workplace, train_on
from sage_dialog.training.watching import training_log, watch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

logger = logging.getLogger(__name__)
Row = TypeVar("Row")

# What every Trainer of this project is told: one CPU process or GPU, nothing reported or shipped.
TRAINER_DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "save_strategy": "no",  # `checkpoints.train_on` says when
    "logging_steps": 0.01,  # of all steps
    "include_num_input_tokens_seen": "non_padding",
    "disable_tqdm": True,  # `watching.watch` has a bar
    "dataloader_pin_memory": False,
    "gradient_checkpointing": False,
}


def seed_torch(seed: int, purpose: str, name: str, threads: int | None) -> int:
    """Seed everything that trains; returns the seed for the Trainer, which draws data order from it."""
    import torch
    from transformers import set_seed

    if threads is not None:
        torch.set_num_threads(threads)
    trainer_seed = derived_seed(seed, purpose, name) % 2**31
    set_seed(trainer_seed)
    return trainer_seed


def device_arguments() -> dict[str, Any]:
    """bf16 where a GPU has it, plain fp32 on the CPU."""
    import torch

    cuda = torch.cuda.is_available()
    return {"use_cpu": not cuda, "bf16": cuda and torch.cuda.is_bf16_supported()}


def load_base(base: Policy) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype="auto", use_safetensors=True)
    return model, AutoTokenizer.from_pretrained(base.path)


def fitting(
    name: str, what: str, rows: Sequence[tuple[str, Row]], length: Callable[[Row], int], max_length: int
) -> tuple[list[tuple[str, Row]], pa.Table]:
    """The rows, each with its id, of at most `max_length` tokens; and the others (schemas.LEFT_OUT), never cut.

    Raises:
        ValueError: if none is left to train `name` on.
    """
    lengths = [length(row) for _, row in rows]
    kept = [row for row, tokens in zip(rows, lengths, strict=True) if tokens <= max_length]
    left_out = [
        {"row": row, "tokens": tokens, "max_length": max_length}
        for (row, _), tokens in zip(rows, lengths, strict=True)
        if tokens > max_length
    ]
    if left_out:
        logger.warning(
            "%s: %d of %d %s exceed %d tokens and are left out; left_out_%s lists them",
            *(name, len(left_out), len(rows), what, max_length, name),
        )
    if not kept:
        raise ValueError(f"{name}: no {what} to train on ({len(rows)} given, {len(left_out)} over {max_length} tokens)")
    return kept, pa.Table.from_pylist(left_out, schema=LEFT_OUT)


def apart(
    name: str, rows: Sequence[tuple[str, Row]], groups: Sequence[str], share: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to learn from, and rows held out to measure on: a `share` of the groups, drawn by seed.

    Args:
        groups: of each row; what belongs together is on one side.

    Raises:
        ValueError: if a share is asked for and one of the sides would be empty.
    """
    names = sorted(set(groups))
    drawn = set(sample_ids(names, round(share * len(names)), seed, f"held out {name}")) if share else set()
    if share and not 0 < len(drawn) < len(names):
        raise ValueError(
            f"{name}: held_out {share} of {len(names)} leaves nothing to {'learn from' if drawn else 'measure on'}"
        )
    sides: tuple[list[Row], list[Row]] = ([], [])
    for (_, row), group in zip(rows, groups, strict=True):
        sides[group in drawn].append(row)
    return sides


def measuring(held_out: Sequence[object], batch_size: int) -> dict[str, Any]:
    """What a Trainer is told of measuring on rows held out: ten times, and at the end."""
    if not held_out:
        return {}
    return {"eval_strategy": "steps", "eval_steps": 0.1, "per_device_eval_batch_size": batch_size}


def tables_for(learnt: Sequence[Row], held_out: Sequence[Row]) -> dict[str, Any]:
    """The rows as a Trainer takes them."""
    from datasets import Dataset

    measured = Dataset.from_list(held_out) if held_out else None
    return {"train_dataset": Dataset.from_list(learnt), "eval_dataset": measured}


def trained(
    trainer: Trainer, name: str, base: Policy, start: Policy | None, blocks: bool, left_out: pa.Table, place: Workplace
) -> Trained:
    """Train to the end, seen and kept on the way; what came of it."""
    watch(trainer, name)
    train_on(trainer, name, place)
    return place.finish(
        training_log(trainer.state.log_history),
        left_out,
        lambda out: save_adapter(trainer.model, name, base, start, blocks, out),
    )


def fresh_adapter(model: PreTrainedModel, lora: LoraDials) -> PeftModel:
    """An adapter that changes nothing yet. Its name is "default"."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        target_parameters=list(lora.target_parameters) or None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


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
    return adapter


def save_adapter(model: PeftModel, name: str, base: Policy, start: Policy | None, blocks: bool, out: Path) -> Policy:
    """Write the adapter alone, with its card; its bytes depend neither on the base's path nor on the order of a set."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base.card.base
    for field, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, field, sorted(value))
    model.save_pretrained(str(out), selected_adapters=["default"], save_embedding_layers=False)
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


# Said on every run by the libraries of these versions, about nothing this project can or should change.
_KNOWN_CHATTER = (
    # PEFT looks for the pattern among modules; a Mixtral's fused experts are parameters, and get its rank.
    "The following (rank|alpha)_pattern keys did not match",
    "`is_gradient_checkpointing` is deprecated",
    ".*gradient_checkpointing.* is deprecated",
)


def quiet_libraries() -> None:
    """Drop the libraries' own bars and chatter, which a run's log does not need."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    for message in _KNOWN_CHATTER:
        warnings.filterwarnings("ignore", message=message)
