"""Fine-tuning of the base, with and without blocks::

    sage_0, sft_conversations ───────────────────────────> [train_sage_1] ────────> sage_1
    sage_0, sft_conversations_plain, sft_conversations ──> [train_sage_1_plain] ──> sage_1_plain

`sage_1_plain` is the ablation: it differs by the blocks alone. Both begin with the same adapter and read the same
conversations in the same order; those that are too long with blocks are left out of both. Each policy comes with its
tables, `training_log_…` and `training_rejects_…`. The policy is the last output of its node: saving it removes the
training's scratch folder.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.sft.nodes import train_into


def create_pipeline() -> Pipeline:
    parameters = ["params:sft", "params:seed", "params:scratch", "params:threads", "params:launcher"]
    policies = {
        "sage_1": ["sft_conversations", *parameters],
        "sage_1_plain": ["sft_conversations_plain", *parameters, "sft_conversations"],
    }
    return Pipeline(
        node(
            train_into(policy, blocks=policy == "sage_1"),
            inputs=["sage_0", *inputs],
            outputs=[f"training_log_{policy}", f"training_rejects_{policy}", policy],
            name=f"train_{policy}",
        )
        for policy, inputs in policies.items()
    )
