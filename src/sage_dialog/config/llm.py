"""Parameters of language models on a server: budgets, prices and the response cache."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from sage_dialog.config.base import Amount, Config, NonNegative, Share

Role = Literal["annotator", "selector", "judge", "policy", "imaginer", "critic"]


class Caps(Config):
    """Limits of a run, which is one command with all its roles and models; null sets none."""

    calls: Amount | None = None
    tokens: Amount | None = None
    money: NonNegative | None = None


class Price(Config):
    """Prices per million tokens."""

    prompt: NonNegative
    cached_prompt: NonNegative | None = None
    completion: NonNegative
    batch_share: Share = 0.5

    @model_validator(mode="after")
    def _cached_tokens_cost_no_more(self) -> Self:
        if self.cached_prompt is not None and self.cached_prompt > self.prompt:  # caps take the price of the others
            raise ValueError(f"cached_prompt = {self.cached_prompt:g} is more than prompt = {self.prompt:g}")
        return self


class Llm(Config):
    response_cache: str
    caps: Caps
    role_caps: dict[Role, Caps]
    prices: dict[str, Price]
    max_failed_share: Share
