"""The first policies: fine-tuned on annotated dialogues, with the chain, without it, or with a part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sage_dialog.config import Launcher, Sft
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame


def train_into(name: str, blocks: bool) -> Callable[..., tuple[DataFrame, DataFrame, Policy]]:
    """Return the node function that trains the policy `name`, which writes state and action blocks or does not."""

    def train(
        base: Policy,
        conversations: DataFrame,
        sft: Sft,
        seed: int,
        scratch: str,
        threads: int | None,
        launcher: Launcher,
        measured: DataFrame | None = None,
    ) -> tuple[DataFrame, DataFrame, Policy]:
        """Fine-tune the base on conversations (paper §3.3).

        Args:
            measured: for an ablation, the conversations with the whole chain: their length decides what all leave out.

        Returns:
            Tables of `schemas.TRAINING_LOG` and `schemas.TRAINING_REJECTS`, and the policy.
        """
        from sage_dialog.training.sft import fine_tune

        return fine_tune(
            *(name, base, None, conversations, sft.training, sft.lora, seed, Path(scratch)),
            blocks=blocks,
            threads=threads,
            launcher=launcher,
            measured=measured,
        )

    return train
