"""Linear layers in eight bits on a CPU: weights once at load, activations at each call.

torch's own dynamic quantization gives all activations of a batch one scale, so that a reply would depend on the other
replies of its batch. Here each token has its own, and the integers of a row are the same in any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SCALE, _ZERO = 2 / 127, 64
"""Activations from -1 to 1 as 7-bit integers: with 8 bits, sums of older processors would overflow."""

_SMALLEST = 1e-30
"""The scale of a token without activations, which must not be zero."""


class Int8Linear(nn.Module):
    """A linear layer with a scale for each output and for each token; input and output stay float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scales = weight.abs().amax(dim=1).double().clamp_(min=_SMALLEST) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        largest = inputs.abs().amax(dim=-1, keepdim=True).clamp_(min=_SMALLEST)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        output: torch.Tensor = multiply(inputs / largest, _SCALE, _ZERO, self._packed) * largest
        return output if self.bias is None else output + self.bias


def quantize_linear_layers(model: PreTrainedModel) -> None:
    """Replace the linear layers of a model, except its output layer and the matrices of LoRA.

    The output layer decides the logits directly, and LoRA's matrices are small. Fused experts are no linear layers.
    """
    output = model.get_output_embeddings()
    kept = set() if output is None else {id(module) for module in output.modules()}
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and id(module) not in kept and ".lora_" not in name:
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, Int8Linear(module))
