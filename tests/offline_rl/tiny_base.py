"""A base of a few thousand parameters in the language of the tasks, and an adapter on it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from sage_dialog.config import BaseModelConfig, Imagination
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.imagination.base_text import documents
from sage_dialog.microworld.base_model import train_base

TINY = BaseModelConfig.from_base(
    vocabulary=600, layers=2, hidden=16, heads=2, experts=2, expert_hidden=16, steps=2, batch_size=4
)


def tiny_base(folder: Path, seed: int = 0) -> tuple[Policy, Policy]:
    """Return a base and an adapter with random weights on it."""
    base = train_base(documents(Imagination.from_base().tasks, 60, 0), TINY, seed, folder / "goal_base", 1, "goal_base")
    model = AutoModelForCausalLM.from_pretrained(base.path)
    torch.manual_seed(seed)
    config = LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    get_peft_model(model, config).save_pretrained(folder / "goal_bc")
    card = PolicyCard("goal_bc", "adapter", True, "goal_base", base.card.base_revision, "goal_base")
    return base, Policy.write_card(folder / "goal_bc", card)
