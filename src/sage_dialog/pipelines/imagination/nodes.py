"""Imagine dialogues on tasks, criticise them, and score what is left."""

from __future__ import annotations

from sage_dialog.config import Imagination
from sage_dialog.core.tables import DataFrame
from sage_dialog.imagination.protocols import DialogueCritic, Imaginer


def draw_personas(imaginer: Imaginer, imagination: Imagination, seed: int) -> DataFrame:
    """Return personas of each task (schemas.PERSONAS)."""
    from sage_dialog.imagination import tables

    return tables.draw_personas(imaginer, imagination, seed)


def imagine(imaginer: Imaginer, personas: DataFrame, imagination: Imagination, seed: int) -> DataFrame:
    """Return a dialogue with each persona (schemas.IMAGINED_DIALOGUES)."""
    from sage_dialog.imagination import tables

    return tables.imagine_dialogues(imaginer, personas, imagination, seed)


def criticise(
    dialogue_critic: DialogueCritic, personas: DataFrame, imagined_dialogues: DataFrame, imagination: Imagination
) -> DataFrame:
    """Keep, rewrite or drop each dialogue (schemas.CRITIQUES)."""
    from sage_dialog.imagination import tables

    return tables.critique_dialogues(dialogue_critic, personas, imagined_dialogues, imagination)


def score(critiques: DataFrame, imagination: Imagination) -> DataFrame:
    """Score the dialogues that were not dropped by their task's outcomes (schemas.REWARDS)."""
    from sage_dialog.imagination import tables

    return tables.score_dialogues(critiques, imagination)


def measure_personas(personas: DataFrame, imagination: Imagination) -> DataFrame:
    """Measure how different personas are (schemas.PERSONA_DIVERSITY)."""
    from sage_dialog.imagination import tables

    return tables.persona_diversity(personas, imagination)


def measure_critique(
    personas: DataFrame, imagined_dialogues: DataFrame, critiques: DataFrame, imagination: Imagination
) -> DataFrame:
    """Measure what the critique changes (schemas.CRITIQUE_EFFECTS)."""
    from sage_dialog.imagination import tables

    return tables.critique_effects(personas, imagined_dialogues, critiques, imagination)
