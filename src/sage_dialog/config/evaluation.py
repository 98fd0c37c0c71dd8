"""Parameters of evaluation: dialogues played, pairs judged, statistics, benchmarks (paper §3.6, §4)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sage_dialog.config.base import Amount, Config, Count, Probability
from sage_dialog.config.self_play import GameRules

OutcomeRule = Literal["agreement", "half", "first_order"]


class Benchmarks(Config):
    """Standard benchmarks, run by lm-eval (paper Table 2)."""

    tasks: tuple[str, ...] | None
    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    few_shot: dict[str, Amount]
    chat_template: bool
    limit: Count | None
    batch_size: Count


class Evaluation(GameRules):
    split: Literal["valid", "test"]
    situations: Count | None
    exchanges: Count
    pairs: tuple[tuple[str, str], ...]
    outcome_rule: OutcomeRule
    confidence: Probability
    replicates: Annotated[int, Field(ge=200)]
    true_shares: tuple[Annotated[float, Field(ge=0.51, le=1)], ...]
    power: Probability
    benchmarks: Benchmarks
