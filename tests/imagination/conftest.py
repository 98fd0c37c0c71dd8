"""The tasks that ship, and a task small enough to follow by hand."""

from __future__ import annotations

import pytest
from guessing_task import GUESSING
from scripted_client import prompts, scripted

from sage_dialog.config import Imagination, Task

__all__ = ["guessing", "imagination", "prompts", "scripted"]


@pytest.fixture
def guessing() -> Task:
    return Task.model_validate(GUESSING)


@pytest.fixture
def imagination() -> Imagination:
    """The tasks that ship, with few personas."""
    return Imagination.from_base(personas=60)
