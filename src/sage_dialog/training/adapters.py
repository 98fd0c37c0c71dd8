"""Base models and the adapters that are trained on them: load, create, continue, save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import is_bitsandbytes_available

from sage_dialog.config import LoraSettings
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.training.full_weights import full_adapter, prepare_full_adapter
from sage_dialog.training.job import TrainingJob


def load_model(base: Policy, quantization: str | None) -> PreTrainedModel:
    """Return the base in its own precision, or quantized to 4 bits (QLoRA, arXiv:2305.14314).

    Raises:
        ValueError: if the base is to be quantized and bitsandbytes is not installed.
    """
    options = {"quantization_config": _quantization_config(quantization)} if quantization else {}
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype="auto", use_safetensors=True, **options)
    if quantization:
        _quantize_experts(model, quantization)
    return model


def new_adapter(model: PreTrainedModel, lora: LoraSettings | None) -> PeftModel:
    """Return an adapter, named "default", that changes nothing yet: LoRA, or all weights where `lora` is None.

    Raises:
        ValueError: if LoRA targets the experts of a quantized base, which PEFT skips.
    """
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
    if getattr(model, "is_quantized", False) and (experts := adapter.peft_config["default"].target_parameters):
        raise ValueError(
            f"sft.lora.target_modules {lora.target_modules} includes {', '.join(sorted(experts))}, which quantization "
            "packs in 4 bits; name the layers, such as [q_proj, v_proj]"
        )
    return adapter


def load_adapter(model: PreTrainedModel, base: Policy, start: Policy) -> PeftModel:
    """Return the adapter of `start`, named "default", for further training.

    Raises:
        ValueError: if `start` is no adapter, or was trained on another base.
    """
    if start.card.kind != "adapter":
        raise ValueError(f"{start.name} at {start.path} is a base; only an adapter can be trained further")
    if start.card.base_revision != base.card.base_revision:
        raise ValueError(
            f"{start.name} at {start.path} is an adapter on {start.card.base} {start.card.base_revision[:12]}, but the "
            f"base at {base.path} is {base.card.base_revision[:12]}; train {start.name} again on this base"
        )
    adapter = PeftModel.from_pretrained(model, str(start.path), is_trainable=True)
    adapter.peft_config["default"].base_model_name_or_path = str(base.path)  # else checkpoints look on a hub
    return prepare_full_adapter(adapter)


def gather_weights(model: torch.nn.Module, first: bool) -> dict[str, torch.Tensor]:
    """Return the trained weights by their names in the model, on the first process only; every process must call this.

    Sharded weights are gathered one by one, so that a GPU holds one of them at a time.
    """
    weights = {}
    for name, weight in model.named_parameters(remove_duplicate=False):  # tied weights are saved under both names
        if not weight.requires_grad:
            continue
        if hasattr(weight, "full_tensor"):  # FSDP
            gathered = weight.detach().full_tensor().cpu()
        elif hasattr(weight, "ds_id"):  # ZeRO-3
            from deepspeed import zero  # an optional dependency

            with zero.GatheredParameters([weight]):
                gathered = weight.detach().to("cpu", copy=True)
        else:
            gathered = weight.detach()
        if first:
            weights[name] = gathered
    return weights


def save_adapter(model: PeftModel, weights: Mapping[str, torch.Tensor], job: TrainingJob, out: Path) -> Policy:
    """Save the adapter with its card; the bytes depend neither on the base's path nor on the order of a set.

    Args:
        weights: from `gather_weights`.
    """
    base, start = job.base, job.start
    config = model.peft_config["default"]
    config.base_model_name_or_path = base.card.base
    for field, value in vars(config).items():
        if isinstance(value, set):
            setattr(config, field, sorted(value))
    model.save_pretrained(str(out), state_dict=weights, selected_adapters=["default"], save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    card = PolicyCard(
        name=job.name,
        kind="adapter",
        blocks=job.blocks,
        base=base.card.base,
        base_revision=base.card.base_revision,
        parent=start.name if start else base.name,
        parent_revision=(start or base).revision(),
    )
    return Policy.write_card(out, card)


def _quantization_config(quantization: str) -> Any:
    """Return the configuration of 4-bit linear layers with 8-bit scales."""
    if not is_bitsandbytes_available():
        raise ValueError(f"quantization: {quantization} needs bitsandbytes; pip install 'sage-dialog[nf4]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )


def _quantize_experts(model: PreTrainedModel, quantization: str) -> None:
    """Quantize the experts, which transformers stores as one tensor a layer and bitsandbytes skips."""
    from bitsandbytes.nn.parametrize import replace_parameter_4bit  # an optional dependency

    experts = [
        (module, name)
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3
    ]
    for module, name in experts:
        replace_parameter_4bit(module, name, quant_type=quantization, compress_statistics=True)
