"""Annotate dialogues and mix training conversations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from sage_dialog.config import Corpora, SacAugmentation
from sage_dialog.core.recipe import Arm
from sage_dialog.core.tables import DataFrame
from sage_dialog.roles.protocols import Annotator

logger = logging.getLogger(__name__)


def annotate_dialogues(
    dialogues: DataFrame,
    corpus_dialogues: DataFrame,
    text_duplicates: DataFrame,
    annotator: Annotator,
    corpora: Corpora,
) -> tuple[DataFrame, DataFrame]:
    """Label every utterance with motivation, emotion and topics (paper §3.2, appendix B).

    Labels that a corpus has are taken. Held-out splits, and training dialogues that stand in one, are left out.

    Args:
        dialogues: schemas.DIALOGUES; the two speakers alternate, the first is the user.
        corpus_dialogues: schemas.CORPUS_DIALOGUES.
        text_duplicates: schemas.TEXT_DUPLICATES.

    Returns:
        Tables of `schemas.ANNOTATIONS` and `schemas.ANNOTATION_REJECTS`; every dialogue is in one of them.
    """
    from sage_dialog.roles.label_coverage import label_warnings
    from sage_dialog.training_data.annotation import label_dialogues, training_dialogues

    removed = set(text_duplicates.loc[text_duplicates["removed"], "dialogue_id"])
    if removed:
        logger.warning("%d dialogues stand in a held-out split as well and are not trained on", len(removed))
    annotations, rejects = label_dialogues(
        dialogues[~dialogues["dialogue_id"].isin(list(removed))],
        training_dialogues(corpus_dialogues, removed),
        annotator,
        corpora.missing_labels,
    )
    for warning in label_warnings(annotations):
        logger.warning(warning)
    return annotations, rejects


def mix_with_blocks(
    annotations: DataFrame,
    instructions: dict[str, Path],
    open_trajectories: Callable[[str], DataFrame],
    sac_augmentation: SacAugmentation,
    seed: int,
) -> tuple[DataFrame, DataFrame]:
    """Mix training conversations with state and action blocks.

    Args:
        annotations: schemas.ANNOTATIONS.
        instructions: files of conversations by name.
        open_trajectories: opens a trajectories table of an earlier run by name, for sources of that kind.

    Returns:
        Tables of `schemas.SFT_CONVERSATIONS` and `schemas.MIX_REJECTS`.
    """
    from sage_dialog.training_data.mix import training_mix
    from sage_dialog.training_data.sources import SourceReader

    reader = SourceReader(annotations, instructions, open_trajectories)
    conversations, rejects = training_mix(reader, sac_augmentation, seed, "chain")
    if len(rejects):
        logger.warning("%d conversations are left out of the mix; see mix_rejects", len(rejects))
    return conversations, rejects


def mix_arm(arm: Arm) -> Callable[..., DataFrame]:
    """Return the node function that mixes the same dialogues in the text of an arm of the ablation."""

    def mix(
        annotations: DataFrame,
        instructions: dict[str, Path],
        open_trajectories: Callable[[str], DataFrame],
        sac_augmentation: SacAugmentation,
        seed: int,
    ) -> DataFrame:
        """Mix training conversations as `mix_with_blocks` does.

        Returns:
            A table of `schemas.SFT_CONVERSATIONS`.
        """
        from sage_dialog.training_data.mix import training_mix
        from sage_dialog.training_data.sources import SourceReader

        reader = SourceReader(annotations, instructions, open_trajectories)
        return training_mix(reader, sac_augmentation, seed, arm)[0]

    return mix
