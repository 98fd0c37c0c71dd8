"""What supervised and preference training share: the base, the adapter that goes on, the finished policy."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sage_dialog.parameters import LoraDials
from sage_dialog.policies import Policy, PolicyCard
from sage_dialog.seeds import derived_seed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

logger = logging.getLogger(__name__)
Row = TypeVar("Row")

# What every Trainer of this project is told: one CPU process or GPU, nothing reported, saved or shipped.
TRAINER_DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 20,
    "disable_tqdm": True,  # `LossBar` is the bar
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


def fitting(name: str, what: str, rows: list[Row], length: Callable[[Row], int], max_length: int) -> list[Row]:
    """The rows of at most `max_length` tokens; the others are counted, never cut.

    Raises:
        ValueError: if none is left to train `name` on.
    """
    kept = [row for row in rows if length(row) <= max_length]
    if left_out := len(rows) - len(kept):
        logger.warning("%s: %d of %d %s exceed %d tokens and are left out", name, left_out, len(rows), what, max_length)
    if not kept:
        raise ValueError(f"{name}: no {what} to train on ({len(rows)} given, {left_out} over {max_length} tokens)")
    return kept


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
    return PeftModel.from_pretrained(model, str(start.path), is_trainable=True)


def save_adapter(model: PeftModel, name: str, base: Policy, start: Policy | None, blocks: bool, out: Path) -> Policy:
    """Write the adapter alone, with its card; its bytes depend neither on the base's path nor on the order of a set."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base.card.base
    for field, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, field, sorted(value))
    model.save_pretrained(str(out), selected_adapters=["default"], save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    shutil.rmtree(trainer_folder(out), ignore_errors=True)
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


def trainer_folder(out: Path) -> Path:
    """Where a Trainer that trains for `out` puts what is its own; no part of the policy."""
    return out / "trainer"


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


def show_progress(trainer: Trainer, name: str) -> None:
    """One bar with the steps, the time left and the latest loss."""
    from tqdm import tqdm
    from transformers import PrinterCallback, TrainerCallback

    class LossBar(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(total=state.max_steps, desc=f"training {name}", unit="step", mininterval=1.0)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs = kwargs.get("logs") or {}
            if "loss" in logs:
                self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LossBar())
