"""Bases in 4 bits: a policy is trained on a base that takes a quarter of the memory (QLoRA, arXiv:2305.14314)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def loading(quantization: str) -> dict[str, Any]:
    """What `from_pretrained` is told: linear layers in 4 bits, their scales in 8.

    Raises:
        ValueError: if there is no bitsandbytes.
    """
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ValueError(f"quantization: {quantization} needs bitsandbytes; pip install 'sage-dialog[nf4]'")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )
    return {"quantization_config": config}


def quantize_experts(model: PreTrainedModel, quantization: str) -> None:
    """Experts, too, whose weights transformers keep in one piece for a layer, and bitsandbytes passes over."""
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    in_one_piece = [
        (module, name)
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3
    ]
    for module, name in in_one_piece:
        replace_parameter_4bit(module, name, quant_type=quantization, compress_statistics=True)
