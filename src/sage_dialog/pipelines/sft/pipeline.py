"""LoRA on the base, with blocks and without::

    sage_0 ──────────────> [train_sage_1] ──> sage_1
    sft_conversations ──┘

    sage_0 ──────────────────────> [train_sage_1_plain] ──> sage_1_plain
    sft_conversations_plain ────┘

`sage_1_plain` shows what the blocks are worth. Beside each policy come its tables, `training_log_…` and `training_rejects_…`;
the policy is the last output of its node, since with it goes what the training kept in the scratch folder.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from sage_dialog.core.tables import on_arrow
from sage_dialog.pipelines.sft.nodes import train_sage_1, train_sage_1_plain


def create_pipeline() -> Pipeline:
    settings = ["params:sft", "params:seed", "params:scratch", "params:threads", "params:launcher"]
    return pipeline(
        [
            node(
                on_arrow(train_sage_1),
                inputs=["sage_0", "sft_conversations", *settings],
                outputs=["training_log_sage_1", "training_rejects_sage_1", "sage_1"],
                name="train_sage_1",
            ),
            node(
                on_arrow(train_sage_1_plain),
                inputs=["sage_0", "sft_conversations_plain", *settings],
                outputs=["training_log_sage_1_plain", "training_rejects_sage_1_plain", "sage_1_plain"],
                name="train_sage_1_plain",
            ),
        ]
    )
