"""The first policies: fine-tuned on annotated dialogues, with and without blocks."""

from __future__ import annotations

from pathlib import Path

from sage_dialog.config import Launcher, Sft
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame


def train_sage_1(
    sage_0: Policy, conversations: DataFrame, sft: Sft, seed: int, scratch: str, threads: int | None, launcher: Launcher
) -> tuple[DataFrame, DataFrame, Policy]:
    """Fine-tune the base on conversations with state and action blocks (paper §3.3).

    Returns:
        Tables of `schemas.TRAINING_LOG` and `schemas.TRAINING_REJECTS`, and the policy.
    """
    from sage_dialog.training.sft import fine_tune

    return fine_tune(
        *("sage_1", sage_0, None, conversations, sft.training, sft.lora, seed, Path(scratch)),
        blocks=True,
        threads=threads,
        launcher=launcher,
    )


def train_sage_1_plain(
    sage_0: Policy, conversations: DataFrame, sft: Sft, seed: int, scratch: str, threads: int | None, launcher: Launcher
) -> tuple[DataFrame, DataFrame, Policy]:
    """Fine-tune the base on the same conversations without blocks: the paper's SAGE_1(-SAC)."""
    from sage_dialog.training.sft import fine_tune

    return fine_tune(
        *("sage_1_plain", sage_0, None, conversations, sft.training, sft.lora, seed, Path(scratch)),
        blocks=False,
        threads=threads,
        launcher=launcher,
    )
