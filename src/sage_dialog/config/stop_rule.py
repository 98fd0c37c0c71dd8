"""Parameters of the stop rule of self-play (paper §3.4)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sage_dialog.config.base import Config, Count


class StopRule(Config):
    situations: Count | None
    judge: str | None
    level: Annotated[float, Field(gt=0, lt=0.5)]
    margin: Annotated[float, Field(ge=0.01, lt=0.5)]
