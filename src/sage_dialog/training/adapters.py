"""What supervised and preference training share: the base, the adapter that goes on, the finished policy."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.parameters import LoraDials
from sage_dialog.policies import Policy, PolicyCard
from sage_dialog.seeds import derived_seed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

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


def trainable_adapter(model: PreTrainedModel, base: Policy, start: Policy | None, lora: LoraDials | None) -> PeftModel:
    """A fresh adapter on the base, or the adapter of `start` going on. Its name is "default".

    Raises:
        ValueError: if `start` was trained on another base than this one.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    if start is None or start.card.kind == "base":
        assert lora is not None
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
            target_parameters=list(lora.target_parameters) or None,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)
    if start.card.base_revision != base.card.base_revision:
        raise ValueError(
            f"{start.name} at {start.path} is an adapter on {start.card.base} {start.card.base_revision[:12]}, but the "
            f"base at {base.path} is {base.card.base_revision[:12]}; train {start.name} again on this base"
        )
    return PeftModel.from_pretrained(model, str(start.path), is_trainable=True)


def save_adapter(model: PeftModel, name: str, base: Policy, start: Policy | None, blocks: bool, out: Path) -> Policy:
    """Write the adapter alone, with its card; the base's path stays out of it, so the bytes do not depend on it."""
    model.peft_config["default"].base_model_name_or_path = base.card.base
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
    "The following (rank|alpha)_pattern keys did not match",  # PEFT names a Mixtral's experts, ours are not adapted
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
