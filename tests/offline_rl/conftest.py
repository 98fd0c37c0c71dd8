"""Small dialogues with returns, of the tasks that ship."""

from __future__ import annotations

import pytest

from sage_dialog.config import Imagination
from sage_dialog.core.tables import DataFrame
from sage_dialog.imagination.rules import RuleCritic, RuleImaginer
from sage_dialog.imagination.tables import critique_dialogues, draw_personas, imagine_dialogues, score_dialogues
from sage_dialog.offline_rl.dialogues import goal_dialogues


@pytest.fixture(scope="session")
def imagination() -> Imagination:
    return Imagination.from_base(personas=40)


@pytest.fixture(scope="session")
def tables(imagination: Imagination) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Personas, critiques and rewards."""
    imaginer = RuleImaginer([1.0, 5.0], 0.2, 0.1)
    personas = draw_personas(imaginer, imagination, 0)
    imagined = imagine_dialogues(imaginer, personas, imagination, 0)
    critiques = critique_dialogues(RuleCritic(), personas, imagined, imagination)
    return personas, critiques, score_dialogues(critiques, imagination)


@pytest.fixture(scope="session")
def dialogues(imagination: Imagination, tables: tuple[DataFrame, DataFrame, DataFrame]) -> DataFrame:
    return goal_dialogues(*tables, imagination, True, 0.25, 0)
