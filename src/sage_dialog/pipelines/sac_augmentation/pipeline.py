"""Annotated dialogues become training conversations, with blocks and, for the ablation, without::

    dialogues ─────────> [annotate_dialogues] ──> annotations ──> [mix_with_blocks] ──> sft_conversations, mix_rejects
    corpus_dialogues ──┘      ^     │                   │         [mix_plain] ────────> sft_conversations_plain
    text_duplicates ──────────┤     └─> annotation_rejects               ^
    annotator ────────────────┘                                          │
    instructions, previous_trajectories ─────────────────────────────────┘

Of `corpus_dialogues` only the training splits are annotated. Both mixes hold the same dialogues, drawn by the same
seed.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues, mix_arm, mix_with_blocks

MIX_INPUTS = ["annotations", "instructions", "previous_trajectories", "params:sac_augmentation", "params:seed"]


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                annotate_dialogues,
                inputs=["dialogues", "corpus_dialogues", "text_duplicates", "annotator", "params:corpora"],
                outputs=["annotations", "annotation_rejects"],
                name="annotate_dialogues",
            ),
            node(
                mix_with_blocks, inputs=MIX_INPUTS, outputs=["sft_conversations", "mix_rejects"], name="mix_with_blocks"
            ),
            node(mix_arm("plain"), inputs=MIX_INPUTS, outputs="sft_conversations_plain", name="mix_plain"),
        ]
    )
