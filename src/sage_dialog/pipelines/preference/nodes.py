"""Preference pairs of the last search, and preference tuning on them."""

from __future__ import annotations

from pathlib import Path

from sage_dialog.config import Launcher, Preference, SacAugmentation
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame


def make_pairs(
    candidates: DataFrame,
    trajectories: DataFrame,
    sac_augmentation: SacAugmentation,
    preference: Preference,
    seed: int,
) -> DataFrame:
    """Pair chosen candidates with others of the same turn.

    Args:
        candidates: schemas.CANDIDATES of the last iteration.
        trajectories: schemas.TRAJECTORIES of the same search.

    Returns:
        A table of `schemas.DPO_PAIRS`.
    """
    from sage_dialog.training_data.preference_pairs import preference_pairs

    system_prompt = sac_augmentation.system_prompts.get("listener")
    return preference_pairs(candidates, trajectories, system_prompt, seed, preference.negatives, preference.rejected)


def train_sage_dpo(
    base: Policy,
    start: Policy,
    dpo_pairs: DataFrame,
    preference: Preference,
    seed: int,
    threads: int | None,
    scratch: str,
    launcher: Launcher,
) -> tuple[DataFrame, DataFrame, Policy]:
    """Train the adapter of the last iteration's policy further by DPO; that policy is also the reference.

    Returns:
        Tables of `schemas.TRAINING_LOG` and `schemas.TRAINING_REJECTS`, and the policy.
    """
    from sage_dialog.training.dpo import preference_tune

    return preference_tune(
        "sage_dpo", base, start, dpo_pairs, preference, seed, Path(scratch), threads=threads, launcher=launcher
    )
