"""Parameters of offline reinforcement learning, on goal-directed dialogues and on self-play."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from sage_dialog.config.base import (
    Amount,
    Config,
    Count,
    NonNegative,
    PartialShare,
    Positive,
    PositiveShare,
    Probability,
    Share,
    invalid,
)
from sage_dialog.config.self_play import GameRules, SamplingConfig
from sage_dialog.config.training import FineTuning, LoraSettings, Preference, Training


class CriticConfig(Config):
    layers: Amount
    log_probabilities: bool
    hidden: Count
    dropout: PartialShare
    steps: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: NonNegative
    discount: Share
    expectile: Annotated[float, Field(ge=0.5, lt=1)]
    target_rate: PositiveShare
    td_weight: Share
    conservative: NonNegative
    alternatives: Count

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        if not self.layers and not self.log_probabilities:
            raise invalid("a critic reads hidden states (layers), log_probabilities, or both")
        return self


class OfflineRl(Config):
    blocks: bool
    held_out: Probability
    lora: LoraSettings | None
    training: FineTuning
    refinement: FineTuning
    filtered_share: PositiveShare
    critic: CriticConfig
    advantage_scale: Positive
    max_weight: Positive
    preference: Preference
    pairs_per_state: Count
    candidates: Annotated[int, Field(ge=2)]
    agent: SamplingConfig
    situations: Count
    confidence: Probability
    replicates: Count

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        for name in ("training", "refinement", "preference"):
            training: Training = getattr(self, name)
            if training.held_out or training.patience is not None:
                raise invalid(f"{name}.held_out is 0 and {name}.patience null here: the section's held_out is for all")
        return self


class RlPlay(GameRules):
    situations: Count | None
    dialogues: Count
    exchanges: Count
    alternatives: Count
    max_dropped_share: Share
