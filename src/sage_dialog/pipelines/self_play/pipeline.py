"""One iteration k, from `sage_{k}` to `sage_{k+1}`::

    sage_0, sage_{k} (agent), sage_1 (user) ──┐
    situations, selector, engine ─────────────┴─> [search] ──> candidates_{k}
                                                         └───> trajectories_{k} ──┐
    sage_0, sage_{k}, sft_conversations ──────────────────────────────────────────┴─> [refine] ──> sage_{k+1}

`sage_1` is the simulated user of every iteration. The refined policy comes with `training_log_sage_{k+1}` and
`training_rejects_sage_{k+1}`.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.self_play.nodes import refine_into, search


def create_pipeline(iteration: int) -> Pipeline:
    agent, refined = f"sage_{iteration}", f"sage_{iteration + 1}"
    tables = [f"candidates_{iteration}", f"trajectories_{iteration}"]
    run_parameters = ["params:sac_augmentation", "params:seed", "params:threads", "params:scratch"]
    return Pipeline(
        [
            node(
                search,
                inputs=[
                    *("sage_0", agent, "sage_1", "situations", "selector", "engine"),
                    *("params:self_play", *run_parameters),
                ],
                outputs=tables,
                name="search",
            ),
            node(
                refine_into(refined),
                inputs=[
                    *("sage_0", agent, *tables, "sft_conversations"),
                    *("params:self_play", "params:sft", *run_parameters, "params:launcher"),
                ],
                outputs=[f"training_log_{refined}", f"training_rejects_{refined}", refined],
                name="refine",
            ),
        ],
        namespace=f"iteration_{iteration}",
        prefix_datasets_with_namespace=False,
    )
