"""Annotating dialogues and mixing training conversations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sage_dialog.config import SacAugmentation
from sage_dialog.core.tables import Table, table
from sage_dialog.dialogue import Message
from sage_dialog.roles.protocols import Annotator, Labelled, Rejected

logger = logging.getLogger(__name__)


def annotate_dialogues(dialogues: Table, annotator: Annotator) -> tuple[Table, Table]:
    """Motivation, emotion and topics of every utterance (paper §3.2, appendix B).

    Returns:
        Tables of `schemas.ANNOTATIONS` and `schemas.ANNOTATION_REJECTS`; every dialogue is in one of them.
    """
    from sage_dialog.schemas import ANNOTATION_REJECTS, ANNOTATIONS

    annotations, rejects = [], []
    for row, said, labels in _annotated(dialogues.to_pylist(), annotator):
        if isinstance(labels, Rejected):
            rejects.append(
                {"dialogue_id": row["dialogue_id"], "reason": labels.reason, "raw_response": labels.raw_response}
            )
            continue
        for turn, (utterance, label) in enumerate(zip(said, labels, strict=True)):
            annotations.append(
                {
                    "dialogue_id": row["dialogue_id"],
                    "turn": turn,
                    "speaker": utterance.role,
                    "motivation": label.intent.motivation,
                    "emotion": label.intent.emotion,
                    "topics": list(label.intent.topics),
                    "text": label.text,
                    "original_text": utterance.text,
                    "kept_original": label.kept_original,
                    "annotator": annotator.name,
                }
            )
    if rejects:
        logger.warning(
            "%d of %d dialogues could not be annotated; see annotation_rejects", len(rejects), len(dialogues)
        )
    return table(annotations, ANNOTATIONS), table(rejects, ANNOTATION_REJECTS)


def _annotated(
    rows: list[dict[str, Any]], annotator: Annotator
) -> Iterator[tuple[dict[str, Any], list[Message], tuple[Labelled, ...] | Rejected]]:
    """Each dialogue, its utterances with speakers in turn (paper §3.2), and what the annotator said of them."""
    from tqdm import tqdm

    said = [
        [Message("assistant" if turn % 2 else "user", words["text"]) for turn, words in enumerate(row["turns"])]
        for row in rows
    ]
    answers = tqdm(annotator.annotate(said), f"annotating with {annotator.name}", total=len(rows), unit="dialogue")
    yield from zip(rows, said, answers, strict=True)


def mix_with_blocks(
    annotations: Table,
    instructions: dict[str, Path],
    previous_trajectories: Callable[[str], Table],
    sac_augmentation: SacAugmentation,
    seed: int,
) -> tuple[Table, Table]:
    """The training mix with state and action blocks.

    Args:
        annotations: schemas.ANNOTATIONS.
        instructions: files of conversations by name.
        previous_trajectories: opens what an earlier run played, by name, where the mix has such a source.

    Returns:
        Tables of `schemas.SFT_CONVERSATIONS` and `schemas.MIX_REJECTS`.
    """
    mixed, rejects = _mixed(annotations, instructions, previous_trajectories, sac_augmentation, seed, with_blocks=True)
    if len(rejects):
        logger.warning("%d conversations are left out of the mix; see mix_rejects", len(rejects))
    return mixed, rejects


def mix_plain(
    annotations: Table,
    instructions: dict[str, Path],
    previous_trajectories: Callable[[str], Table],
    sac_augmentation: SacAugmentation,
    seed: int,
) -> Table:
    """The same dialogues without blocks: the ablation's mix (paper §3.3)."""
    mixed, _ = _mixed(annotations, instructions, previous_trajectories, sac_augmentation, seed, with_blocks=False)
    return mixed


def _mixed(
    annotations: Table,
    instructions: dict[str, Path],
    previous_trajectories: Callable[[str], Table],
    sac_augmentation: SacAugmentation,
    seed: int,
    *,
    with_blocks: bool,
) -> tuple[Table, Table]:
    from sage_dialog.training_data.mix import training_mix
    from sage_dialog.training_data.sources import Sources

    sources = Sources(annotations, instructions, previous_trajectories)
    return training_mix(sources, sac_augmentation, seed, with_blocks=with_blocks)
