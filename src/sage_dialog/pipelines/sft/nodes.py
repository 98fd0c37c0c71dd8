"""The first policies: fine-tuned on annotated dialogues, with blocks and without."""

from __future__ import annotations

from pathlib import Path

from sage_dialog.config import Launcher, Sft
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import Table


def train_sage_1(
    sage_0: Policy, conversations: Table, sft: Sft, seed: int, scratch: str, threads: int | None, launcher: Launcher
) -> tuple[Table, Table, Policy]:
    """LoRA on the base with state and action blocks (paper §3.3).

    Returns:
        Tables of `schemas.TRAINING_LOG` and `schemas.TRAINING_REJECTS`, and the policy.
    """
    return _train("sage_1", sage_0, conversations, sft, seed, scratch, threads, launcher, blocks=True)


def train_sage_1_plain(
    sage_0: Policy, conversations: Table, sft: Sft, seed: int, scratch: str, threads: int | None, launcher: Launcher
) -> tuple[Table, Table, Policy]:
    """The same training without blocks: the paper's SAGE_1(-SAC)."""
    return _train("sage_1_plain", sage_0, conversations, sft, seed, scratch, threads, launcher, blocks=False)


def _train(
    name: str,
    base: Policy,
    conversations: Table,
    sft: Sft,
    seed: int,
    scratch: str,
    threads: int | None,
    launcher: Launcher,
    blocks: bool,
) -> tuple[Table, Table, Policy]:
    from sage_dialog.training.sft import fine_tune

    return fine_tune(
        name, base, None, conversations, sft.training, sft.lora, seed, Path(scratch), blocks, threads, launcher
    )
