"""Parameters of generation and self-play (paper §3.4), with the rules that evaluation plays by as well."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from sage_dialog.config.base import Amount, Config, Count, NonNegative, Positive, PositiveShare, invalid
from sage_dialog.config.training import FineTuning
from sage_dialog.sac.grammar import SHORTEST_LIMIT, BlockGrammar, FieldValue, ValueLimits, is_list_field

BlockField = Literal["u_motivation", "u_emotion", "u_topic", "a_motivation", "a_emotion", "a_topic"]

BoostScale = Literal["log_odds", "logits"]


class SamplingConfig(Config):
    temperature: Positive
    top_k: Count
    repetition_penalty: Annotated[float, Field(ge=1)]
    max_new_tokens: Count
    hold_form: bool
    max_label_length: Annotated[int, Field(ge=SHORTEST_LIMIT)]
    max_topics: Count

    @property
    def limits(self) -> ValueLimits | None:
        """The limits of values in blocks whose form is held; None where the form is free."""
        return ValueLimits(self.max_label_length, self.max_topics) if self.hold_form else None


class Steering(Config):
    """Logit boosts and fixed values for the fields of the agent's blocks (paper §3.7).

    `boost_scale` says whether the temperature leaves a boost as it is ("log_odds") or divides it ("logits", the paper).
    """

    boosts: dict[BlockField, dict[str, FiniteFloat]] = Field({})
    boost_scale: BoostScale = "log_odds"
    fixed: dict[BlockField, tuple[str, ...] | str | None] = Field({})

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        values: list[dict[str, FieldValue]] = [{field: value} for field, value in self.fixed.items()]
        for field, keywords in self.boosts.items():
            if field in self.fixed:
                raise invalid(f"{field} is boosted and fixed; a fixed value ignores boosts, so leave one of them out")
            values += [{field: (keyword,) if is_list_field(field) else keyword} for keyword in keywords]
        for value in values:
            try:
                BlockGrammar.with_values(value)
            except ValueError as error:
                raise invalid(str(error)) from error
        return self

    def __bool__(self) -> bool:
        """Return whether anything is steered."""
        return any(self.boosts.values()) or bool(self.fixed)


class GameRules(Config):
    """How agent and simulated user talk, in self-play and evaluation alike."""

    agent: SamplingConfig
    user: SamplingConfig
    steering: Steering
    user_attempts: Count
    one_question: bool
    farewell_ends: bool


class SelfPlay(GameRules):
    situations: Count | None
    max_turns: Annotated[int, Field(ge=2)]
    candidates: Annotated[int, Field(ge=2)]
    redraws: Amount
    shard_size: Count
    shards_at_once: Count
    best_share: PositiveShare
    replay_share: NonNegative
    training: FineTuning
