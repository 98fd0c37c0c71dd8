"""From dialogues to training conversations, with blocks and, for the ablation, without::

    dialogues ──> [annotate_dialogues] ──> annotations ──> [mix_with_blocks] ──> sft_conversations
    annotator ──┘           │                   │          [mix_plain] ────────> sft_conversations_plain
                            └─> annotation_rejects               ^
    instructions, previous_trajectories ──────────────────────────┘

Both mixes hold the same dialogues, drawn by the same seed; mix_rejects has what neither could hold.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from sage_dialog.core.tables import on_arrow
from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues, mix_plain, mix_with_blocks


def create_pipeline() -> Pipeline:
    mixed = ["annotations", "instructions", "previous_trajectories", "params:sac_augmentation", "params:seed"]
    return pipeline(
        [
            node(
                on_arrow(annotate_dialogues),
                inputs=["dialogues", "annotator"],
                outputs=["annotations", "annotation_rejects"],
                name="annotate_dialogues",
            ),
            node(
                on_arrow(mix_with_blocks),
                inputs=mixed,
                outputs=["sft_conversations", "mix_rejects"],
                name="mix_with_blocks",
            ),
            node(on_arrow(mix_plain), inputs=mixed, outputs="sft_conversations_plain", name="mix_plain"),
        ]
    )
