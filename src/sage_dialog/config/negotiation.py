"""Parameters of Deal or No Deal as a task."""

from __future__ import annotations

from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sage_dialog.config.base import Config, invalid
from sage_dialog.config.self_play import SamplingConfig

PLACES = ("books", "hats", "balls", "book", "hat", "ball")
"""Places of the system prompt: the number of items of each kind, and what one of each kind is worth."""


class Negotiation(Config):
    system_prompt: str
    contexts: Literal["valid", "held_out"]
    partner: SamplingConfig
    max_messages: Annotated[int, Field(ge=2)]
    folds: Annotated[int, Field(ge=2)]

    @field_validator("system_prompt")
    @classmethod
    def _check_places(cls, prompt: str) -> str:
        try:
            places = [name for _, name, _, _ in Formatter().parse(prompt) if name is not None]
        except ValueError as error:
            raise invalid(f"no template: {error}") from error
        if sorted(places) != sorted(PLACES):
            raise invalid(f"name each of {', '.join('{' + place + '}' for place in PLACES)} once, and nothing else")
        return prompt
