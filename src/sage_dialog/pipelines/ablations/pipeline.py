"""Which part of the chain helps? Policies on the dialogues of `sage_1`, with a part of the chain in their text::

    annotations, instructions, … ──> [mix_emotion] ──> sft_conversations_emotion
    sage_0, sft_conversations_emotion, sft_conversations ──> [train_sage_1_emotion] ──> sage_1_emotion

and so for `action` and `shuffled`. `emotion` keeps the user's emotion alone and `action` the action block alone; other
labels are null. `shuffled` has the whole chain of another dialogue. All are trained as `sage_1` and `sage_1_plain` are:
the same conversations in the same order, left out by the same length, that of the whole chain.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.core.recipe import ABLATIONS
from sage_dialog.pipelines.sac_augmentation.nodes import mix_arm
from sage_dialog.pipelines.sac_augmentation.pipeline import MIX_INPUTS
from sage_dialog.pipelines.sft.pipeline import train_node


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            *(
                node(mix_arm(arm), inputs=MIX_INPUTS, outputs=f"sft_conversations_{arm}", name=f"mix_{arm}")
                for arm in ABLATIONS
            ),
            *(train_node(f"sage_1_{arm}", f"sft_conversations_{arm}", blocks=True) for arm in ABLATIONS),
        ]
    )
