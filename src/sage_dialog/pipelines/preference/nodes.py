"""Pairs from the last search, and DPO on them."""

from __future__ import annotations

from sage_dialog.parameters import Preference, SacAugmentation
from sage_dialog.policies import Policy, fresh_folder
from sage_dialog.tables import Table

NAME = "sage_dpo"


def make_pairs(candidates: Table, trajectories: Table, sac_augmentation: SacAugmentation, seed: int) -> Table:
    """Chosen candidates against another at random.

    Args:
        candidates: schemas.CANDIDATES of the last iteration.
        trajectories: schemas.TRAJECTORIES of the same search.

    Returns:
        A table of `schemas.DPO_PAIRS`.
    """
    from sage_dialog.selfplay.pairs import preference_pairs

    return preference_pairs(candidates, trajectories, sac_augmentation.preambles.get("listener"), seed)


def prefer(
    base: Policy,
    start: Policy,
    dpo_pairs: Table,
    preference: Preference,
    seed: int,
    threads: int | None,
    scratch: str,
) -> Policy:
    """Continue the adapter of `start` by DPO; `start` is also the reference.

    Args:
        base: the base model.
        start: the last iteration's policy.
        dpo_pairs: schemas.DPO_PAIRS.
    """
    from sage_dialog.training import preference as training

    out = fresh_folder(scratch, NAME)
    return training.prefer(NAME, base, start, dpo_pairs, preference, seed, out, threads)
