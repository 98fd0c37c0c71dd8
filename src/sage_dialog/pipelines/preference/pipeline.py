"""Preference tuning on the last search, K::

    candidates_{K}, trajectories_{K} ──> [make_pairs] ──> dpo_pairs ──┐
    sage_0, sage_{K+1} ───────────────────────────────────────────────┴─> [train_sage_dpo] ──> sage_dpo

`sage_{K+1}` is the starting policy and the reference. The policy comes with its tables, `training_log_sage_dpo` and
`training_rejects_sage_dpo`.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from sage_dialog.pipelines.preference.nodes import make_pairs, train_sage_dpo


def create_pipeline(iterations: int) -> Pipeline:
    """Create the pipeline after K self-play iterations."""
    return pipeline(
        [
            node(
                make_pairs,
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
                train_sage_dpo,
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
                outputs=["training_log_sage_dpo", "training_rejects_sage_dpo", "sage_dpo"],
                name="train_sage_dpo",
            ),
        ]
    )
