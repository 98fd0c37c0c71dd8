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
from kedro.pipeline.node import Node

from sage_dialog.pipelines.sft.nodes import train_into

CONVERSATIONS = "sft_conversations"


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            train_node("sage_1", CONVERSATIONS, blocks=True),
            train_node("sage_1_plain", f"{CONVERSATIONS}_plain", blocks=False),
        ]
    )


def train_node(policy: str, conversations: str, blocks: bool) -> Node:
    """Return the node that trains a policy on the base; conversations of an ablation are left out by `sage_1`'s."""
    parameters = ["params:sft", "params:seed", "params:scratch", "params:threads", "params:launcher"]
    measured = [] if conversations == CONVERSATIONS else [CONVERSATIONS]
    return node(
        train_into(policy, blocks=blocks),
        inputs=["sage_0", conversations, *parameters, *measured],
        outputs=[f"training_log_{policy}", f"training_rejects_{policy}", policy],
        name=f"train_{policy}",
    )
