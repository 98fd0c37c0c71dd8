"""From the last search, K, to `sage_dpo`::

    candidates_{K}, trajectories_{K} ──> [make_pairs] ──> dpo_pairs ──┐
    sage_0, sage_{K+1} ───────────────────────────────────────────────┴─> [prefer] ──> sage_dpo

`sage_{K+1}` is where training starts and what it is compared with. Beside the policy come its tables,
`training_log_sage_dpo` and `training_rejects_sage_dpo`.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from sage_dialog.core.tables import on_arrow
from sage_dialog.pipelines.preference.nodes import NAME, make_pairs, prefer


def create_pipeline(iterations: int) -> Pipeline:
    """`iterations` is K, the number of self-play iterations before."""
    return pipeline(
        [
            node(
                on_arrow(make_pairs),
                inputs={
                    "candidates": f"candidates_{iterations}",
                    "trajectories": f"trajectories_{iterations}",
                    "sac_augmentation": "params:sac_augmentation",
                    "preference": "params:preference",
                    "seed": "params:seed",
                },
                outputs="dpo_pairs",
                name="make_pairs",
            ),
            node(
                on_arrow(prefer),
                inputs={
                    "base": "sage_0",
                    "start": f"sage_{iterations + 1}",
                    "dpo_pairs": "dpo_pairs",
                    "preference": "params:preference",
                    "seed": "params:seed",
                    "threads": "params:threads",
                    "scratch": "params:scratch",
                    "launcher": "params:launcher",
                },
                outputs=[f"training_log_{NAME}", f"training_rejects_{NAME}", NAME],
                name="prefer",
            ),
        ]
    )
