"""Annotate dialogues and mix training conversations."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from sage_dialog.config import SacAugmentation
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.dialogue import Message
from sage_dialog.roles.protocols import Annotator, RejectedDialogue

logger = logging.getLogger(__name__)

_NAMED_REJECTS = 3  # in the log; annotation_rejects has all


def annotate_dialogues(dialogues: DataFrame, annotator: Annotator) -> tuple[DataFrame, DataFrame]:
    """Label every utterance with motivation, emotion and topics (paper §3.2, appendix B).

    Args:
        dialogues: schemas.DIALOGUES; the two speakers alternate, the first is the user.

    Returns:
        Tables of `schemas.ANNOTATIONS` and `schemas.ANNOTATION_REJECTS`; every dialogue is in one of them.
    """
    from tqdm import tqdm

    from sage_dialog.roles.label_coverage import label_warnings
    from sage_dialog.schemas import ANNOTATION_REJECTS, ANNOTATIONS

    rows = to_rows(dialogues[["dialogue_id", "turns"]])
    utterances = [
        [Message("assistant" if turn % 2 else "user", utterance["text"]) for turn, utterance in enumerate(row["turns"])]
        for row in rows
    ]
    results = tqdm(
        annotator.annotate(utterances), f"annotating with {annotator.name}", total=len(rows), unit="dialogue"
    )
    annotations, rejects = [], []
    for row, messages, result in zip(rows, utterances, results, strict=True):
        dialogue_id = row["dialogue_id"]
        if isinstance(result, RejectedDialogue):
            rejects.append({"dialogue_id": dialogue_id, "reason": result.reason, "raw_response": result.raw_response})
            if len(rejects) <= _NAMED_REJECTS:
                logger.warning("dialogue %s is rejected: %s", dialogue_id, result.reason)
            continue
        annotations += [
            {
                "dialogue_id": dialogue_id,
                "turn": turn,
                "role": message.role,
                "motivation": label.intent.motivation,
                "emotion": label.intent.emotion,
                "topics": list(label.intent.topics),
                "text": label.text,
                "original_text": message.text,
                "kept_original": label.kept_original,
                "annotator": annotator.name,
            }
            for turn, (message, label) in enumerate(zip(messages, result, strict=True))
        ]
    if rejects:
        logger.warning("%d of %d dialogues were rejected; see annotation_rejects", len(rejects), len(rows))
    table = from_rows(annotations, ANNOTATIONS)
    for warning in label_warnings(table):
        logger.warning(warning)
    return table, from_rows(rejects, ANNOTATION_REJECTS)


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
    conversations, rejects = training_mix(reader, sac_augmentation, seed, with_blocks=True)
    if len(rejects):
        logger.warning("%d conversations are left out of the mix; see mix_rejects", len(rejects))
    return conversations, rejects


def mix_plain(
    annotations: DataFrame,
    instructions: dict[str, Path],
    open_trajectories: Callable[[str], DataFrame],
    sac_augmentation: SacAugmentation,
    seed: int,
) -> DataFrame:
    """Mix the same dialogues without blocks, for the ablation (paper §3.3)."""
    from sage_dialog.training_data.mix import training_mix
    from sage_dialog.training_data.sources import SourceReader

    reader = SourceReader(annotations, instructions, open_trajectories)
    return training_mix(reader, sac_augmentation, seed, with_blocks=False)[0]
