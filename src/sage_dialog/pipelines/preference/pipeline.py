"""Preference tuning on the last search, K::

    candidates_{K}, trajectories_{K} ──> [make_pairs] ──> dpo_pairs ──┐
    sage_0, sage_{K+1} ───────────────────────────────────────────────┴─> [train_sage_dpo] ──> sage_dpo

`sage_{K+1}` is the starting policy and the reference. The policy comes with its tables, `training_log_sage_dpo` and
`training_rejects_sage_dpo`.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.preference.nodes import make_pairs, train_sage_dpo


def create_pipeline(iterations: int) -> Pipeline:
    """Return the pipeline after K self-play iterations."""
    return Pipeline(
        [
            node(
                make_pairs,
                inputs=[
                    *(f"candidates_{iterations}", f"trajectories_{iterations}"),
                    *("params:sac_augmentation", "params:preference", "params:seed"),
                ],
                outputs="dpo_pairs",
                name="make_pairs",
            ),
            node(
                train_sage_dpo,
                inputs=[
                    *("sage_0", f"sage_{iterations + 1}", "dpo_pairs"),
                    *("params:preference", "params:seed", "params:threads", "params:scratch", "params:launcher"),
                ],
                outputs=["training_log_sage_dpo", "training_rejects_sage_dpo", "sage_dpo"],
                name="train_sage_dpo",
            ),
        ]
    )
