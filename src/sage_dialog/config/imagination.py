"""Parameters of imagined dialogues."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from sage_dialog.config.base import Config, Count, Share, invalid
from sage_dialog.config.tasks import Task
from sage_dialog.sac.chain import normalize_label


class Imagination(Config):
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    personas: Count
    max_dropped_share: Share
    max_reject_share: Share

    @field_validator("tasks")
    @classmethod
    def _check_names(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        for name in tasks:
            if normalize_label(name) != name or ":" in name:
                raise invalid(f"{name!r} cannot name a task; take small letters and underscores")
        return tasks
