"""Logits at the positions with labels only, for training on a CPU.

On a GPU TRL's fused head leaves the other positions out, and computes the logits of the rest twice, once for each
pass, to save memory. On a CPU it computes those of every position twice, which with a large vocabulary takes most of
the time of a training.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from peft import PeftModel
from transformers.utils import ModelOutput
from trl.trainer.utils import FusedCausalLMOutput


def logits_at_labels_only(model: PeftModel) -> None:
    """Compute what TRL's trainers read from the logits once, at the positions with labels: the same up to rounding.

    The model's own head computes them, so whatever it scales or caps is included. They are kept for the backward pass:
    memory grows with the labels of a forward pass times the vocabulary.

    Args:
        model: with the head of `trl.trainer.utils.add_fused_lm_head`, which TRL's trainers add.
    """
    base = model.get_base_model()
    original = base.forward

    @functools.wraps(original)  # with its signature, by which transformers checks the arguments of `generate`
    def forward(
        *args: Any, labels: torch.Tensor | None = None, fused_lm_head: bool = False, **kwargs: Any
    ) -> ModelOutput:
        if not fused_lm_head:
            return original(*args, **kwargs) if labels is None else original(*args, labels=labels, **kwargs)
        assert labels is not None
        labels = labels[:, 1:]
        mask = labels != -100

        def select(_: torch.nn.Module, __: Any, outputs: ModelOutput) -> ModelOutput:
            outputs.last_hidden_state = outputs.last_hidden_state[:, :-1][mask][None]
            return outputs

        kwargs["use_cache"] = False  # transformers keeps packed rows apart only without a cache
        hook = base.base_model.register_forward_hook(select)
        try:
            outputs = original(*args, **kwargs)
        finally:
            hook.remove()
        measures = _measures(outputs.logits[0], labels[mask])
        placed = {key: each.new_zeros(mask.shape).masked_scatter(mask, each) for key, each in measures.items()}
        return FusedCausalLMOutput(**placed, label_mask=mask, aux_loss=outputs.get("aux_loss"))

    base.forward = forward


def _measures(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what TRL's SFT and DPO read of each position: the fields of its FusedCausalLMOutput."""
    log_softmax = logits.float().log_softmax(-1)
    log_probs = log_softmax.gather(-1, targets[:, None])[:, 0]
    with torch.no_grad():
        return {
            "log_probs": log_probs,
            "entropy": -(log_softmax.exp() * log_softmax).sum(-1),
            "mean_logits": logits.float().mean(-1),
            "is_top1": log_softmax.argmax(-1) == targets,
        }
