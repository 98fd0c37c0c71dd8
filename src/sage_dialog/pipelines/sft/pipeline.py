"""Fine-tuning of the base, with and without blocks::

    sage_0, sft_conversations ────────> [train_sage_1] ────────> sage_1
    sage_0, sft_conversations_plain ──> [train_sage_1_plain] ──> sage_1_plain

`sage_1_plain` is the ablation. Each policy comes with its tables, `training_log_…` and `training_rejects_…`. The policy
is the last output of its node: saving it removes the training's scratch folder.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.sft.nodes import train_into


def create_pipeline() -> Pipeline:
    parameters = ["params:sft", "params:seed", "params:scratch", "params:threads", "params:launcher"]
    policies = {"sage_1": "sft_conversations", "sage_1_plain": "sft_conversations_plain"}
    return Pipeline(
        node(
            train_into(policy, blocks=policy == "sage_1"),
            inputs=["sage_0", conversations, *parameters],
            outputs=[f"training_log_{policy}", f"training_rejects_{policy}", policy],
            name=f"train_{policy}",
        )
        for policy, conversations in policies.items()
    )
