"""Parameters of the generated demo world and of the base model trained on its text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sage_dialog.config.base import Config, Count, Positive

Split = Literal["train", "valid", "test"]


class BaseModelConfig(Config):
    """The tiny Mixtral that is trained from scratch."""

    vocabulary: Annotated[int, Field(ge=300)]
    layers: Count
    hidden: Annotated[int, Field(ge=16)]
    heads: Count
    experts: Annotated[int, Field(ge=2)]
    expert_hidden: Annotated[int, Field(ge=16)]
    steps: Count
    batch_size: Count
    learning_rate: Positive
    last_message_weight: Positive


class Microworld(Config):
    threads: Count
    situations: dict[Split, int]
    instructions: Count
    multiple_choice: Count
    documents: Count
    base: BaseModelConfig
    goal_documents: Count
    goal_base: BaseModelConfig
    negotiation_base: BaseModelConfig
