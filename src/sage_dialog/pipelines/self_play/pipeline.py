"""One iteration k, from `sage_{k}` to `sage_{k+1}`::

    sage_0, sage_{k} (agent), sage_1 (user) ──┐
    situations, selector, engine ─────────────┴─> [search] ──> candidates_{k}
                                                         └───> trajectories_{k} ──┐
    sage_0, sage_{k}, sft_conversations ──────────────────────────────────────────┴─> [refine] ──> sage_{k+1}

`sage_1` is the simulated user of every iteration. The refined policy comes with `training_log_sage_{k+1}` and
`training_rejects_sage_{k+1}`.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from sage_dialog.pipelines.self_play.nodes import refine_into, search

SHARED_PARAMETERS = ("self_play", "sft", "sac_augmentation", "seed", "threads", "scratch", "launcher")


def create_pipeline(iteration: int) -> Pipeline:
    refined = f"sage_{iteration + 1}"
    template = pipeline(
        [
            node(
                search,
                inputs={
                    "base": "base",
                    "agent": "agent",
                    "user": "user",
                    "situations": "situations",
                    "selector": "selector",
                    "engine": "engine",
                    **_parameters("self_play", "sac_augmentation", "seed", "threads", "scratch"),
                },
                outputs=["candidates", "trajectories"],
                name="search",
            ),
            node(
                refine_into(refined),
                inputs={
                    "base": "base",
                    "agent": "agent",
                    "candidates": "candidates",
                    "trajectories": "trajectories",
                    "sft_conversations": "sft_conversations",
                    **_parameters(*SHARED_PARAMETERS),
                },
                outputs=["training_log", "training_rejects", "refined"],
                name="refine",
            ),
        ]
    )
    return pipeline(
        template,
        namespace=f"iteration_{iteration}",
        inputs={
            "base": "sage_0",
            "agent": f"sage_{iteration}",
            "user": "sage_1",
            "situations": "situations",
            "selector": "selector",
            "engine": "engine",
            "sft_conversations": "sft_conversations",
        },
        outputs={
            "candidates": f"candidates_{iteration}",
            "trajectories": f"trajectories_{iteration}",
            "training_log": f"training_log_{refined}",
            "training_rejects": f"training_rejects_{refined}",
            "refined": refined,
        },
        parameters={f"params:{name}" for name in SHARED_PARAMETERS},
    )


def _parameters(*names: str) -> dict[str, str]:
    return {name: f"params:{name}" for name in names}
