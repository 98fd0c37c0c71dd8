"""Pairs from the last search, and DPO on them."""

from __future__ import annotations

from pathlib import Path

from sage_dialog.config import Launcher, Preference, SacAugmentation
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import Table

NAME = "sage_dpo"


def make_pairs(
    candidates: Table, trajectories: Table, sac_augmentation: SacAugmentation, preference: Preference, seed: int
) -> Table:
    """Chosen candidates against others of the same turn.

    Args:
        candidates: schemas.CANDIDATES of the last iteration.
        trajectories: schemas.TRAJECTORIES of the same search.

    Returns:
        A table of `schemas.DPO_PAIRS`.
    """
    from sage_dialog.training_data.preference_pairs import preference_pairs

    system_prompt = sac_augmentation.system_prompts.get("listener")
    return preference_pairs(candidates, trajectories, system_prompt, seed, preference.negatives, preference.rejected)


def prefer(
    base: Policy,
    start: Policy,
    dpo_pairs: Table,
    preference: Preference,
    seed: int,
    threads: int | None,
    scratch: str,
    launcher: Launcher,
) -> tuple[Table, Table, Policy]:
    """Continue the adapter of `start` by DPO; `start` is also the reference.

    Args:
        base: the base model.
        start: the last iteration's policy.
        dpo_pairs: schemas.DPO_PAIRS.

    Returns:
        Tables of `schemas.TRAINING_LOG` and `schemas.TRAINING_REJECTS`, and the policy.
    """
    from sage_dialog.training import dpo as training

    return training.prefer(NAME, base, start, dpo_pairs, preference, seed, Path(scratch), threads, launcher)
