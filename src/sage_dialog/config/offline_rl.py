"""Parameters of offline reinforcement learning, on goal-directed dialogues and on self-play."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from sage_dialog.config.base import (
    Config,
    Count,
    NonNegative,
    Positive,
    PositiveShare,
    Probability,
    invalid,
)
from sage_dialog.config.self_play import GameRules, SamplingConfig
from sage_dialog.config.training import FineTuning, LoraSettings, Preference, Training


class CriticConfig(Config):
    layers: Count
    hidden: Count
    steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    discount: PositiveShare
    expectile: Annotated[float, Field(ge=0.5, lt=1)]
    target_rate: PositiveShare
    conservative: NonNegative
    alternatives: Count


class AdvantageWeighting(Config):
    """A critic, and fine-tuning that its advantages weight."""

    held_out: Probability
    critic: CriticConfig
    advantage_scale: Positive
    max_weight: Positive
    refinement: FineTuning
    agent: SamplingConfig


class SelfPlayRl(AdvantageWeighting, GameRules):
    situations: Count | None
    dialogues: Annotated[int, Field(ge=2)]
    exchanges: Count

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        _check_not_held_out("refinement", self.refinement)
        return self


class OfflineRl(AdvantageWeighting):
    blocks: bool
    lora: LoraSettings | None
    training: FineTuning
    filtered_share: PositiveShare
    preference: Preference
    pairs_per_state: Count
    candidates: Annotated[int, Field(ge=2)]
    situations: Count
    confidence: Probability
    replicates: Count

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        for name in ("training", "refinement", "preference"):
            _check_not_held_out(name, getattr(self, name))
        return self


def _check_not_held_out(name: str, training: Training) -> None:
    if training.held_out or training.patience is not None:
        raise invalid(f"{name}.held_out is 0 and {name}.patience null here: the section's held_out is for all")
