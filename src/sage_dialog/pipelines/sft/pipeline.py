"""Fine-tuning of the base, with and without blocks::

    sage_0, sft_conversations ────────> [train_sage_1] ────────> sage_1
    sage_0, sft_conversations_plain ──> [train_sage_1_plain] ──> sage_1_plain

`sage_1_plain` is the ablation. Each policy comes with its tables, `training_log_…` and `training_rejects_…`. The policy
is the last output of its node: saving it removes the training's scratch folder.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.sft.nodes import train_sage_1, train_sage_1_plain


def create_pipeline() -> Pipeline:
    parameters = ["params:sft", "params:seed", "params:scratch", "params:threads", "params:launcher"]
    return Pipeline(
        [
            node(
                train_sage_1,
                inputs=["sage_0", "sft_conversations", *parameters],
                outputs=["training_log_sage_1", "training_rejects_sage_1", "sage_1"],
                name="train_sage_1",
            ),
            node(
                train_sage_1_plain,
                inputs=["sage_0", "sft_conversations_plain", *parameters],
                outputs=["training_log_sage_1_plain", "training_rejects_sage_1_plain", "sage_1_plain"],
                name="train_sage_1_plain",
            ),
        ]
    )
