"""Parameters of the evaluation on held-out conversations of people."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from sage_dialog.config.base import Amount, Config, Count, PositiveShare, Probability, invalid, suggestion
from sage_dialog.config.self_play import SamplingConfig


class Reference(Config):
    split: Literal["valid", "test"]
    dialogues: Count | None
    replies_per_dialogue: Count | None
    replies: Literal["all", "first"]
    max_turns: Annotated[int, Field(ge=2)] | None
    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    pairs: tuple[tuple[str, str], ...]
    max_chains: Count
    chain_share: PositiveShare
    samples: Count
    sampled_replies: Amount | None
    sampling: SamplingConfig
    confidence: Probability
    replicates: Annotated[int, Field(ge=200)]

    @field_validator("policies")
    @classmethod
    def _check_policies(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := [name for place, name in enumerate(policies) if name in policies[:place]]:
            raise invalid(f"{repeated[0]} is listed twice")
        return policies

    @field_validator("pairs")
    @classmethod
    def _check_pairs(cls, pairs: tuple[tuple[str, str], ...], info: ValidationInfo) -> tuple[tuple[str, str], ...]:
        policies = info.data.get("policies", ())
        for place, pair in enumerate(pairs):
            if unknown := [name for name in pair if policies and name not in policies]:
                raise invalid(
                    f"{unknown[0]!r} is not among reference.policies{suggestion(unknown[0], policies)} "
                    f"They are {', '.join(policies)}"
                )
            if pair in pairs[:place] or pair[0] == pair[1]:
                raise invalid(f"{' against '.join(pair)} is listed twice, or compares a policy with itself")
        return pairs
