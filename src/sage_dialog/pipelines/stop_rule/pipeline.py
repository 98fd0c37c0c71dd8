"""Whether `sage_{k+1}` is better than `sage_{k}` on the valid split, after iteration k::

    sage_0, sage_{k}, sage_1, situations ───> [rollout_sage_{k}] ───> valid_rollouts_sage_{k} ───┐
    sage_0, sage_{k+1}, sage_1, situations ─> [rollout_sage_{k+1}] ─> valid_rollouts_sage_{k+1} ─┤
    judges ──────────────────────────────────────────────────────────────────────────────────────┴─> [judge_{k}]
                                                                                                         │
    valid_votes_1 … valid_votes_{k-1} ──────────┬─> [decide_{k}] ─> iteration_verdicts                   │
    valid_votes_{k} <───────────────────────────┼────────────────────────────────────────────────────────┘

`kedro sage iterate` runs these nodes after those of the iteration, and stops by the last verdict.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.core.hub_models import BASE, USER
from sage_dialog.pipelines.stop_rule import nodes

EVALUATION, STOP_RULE = "params:evaluation", "params:stop_rule"


def create_pipeline(iteration: int) -> Pipeline:
    """Return the nodes after an iteration."""
    pair = (f"sage_{iteration}", f"sage_{iteration + 1}")
    run_parameters = ["params:sac_augmentation", "params:seed", "params:threads", "params:scratch"]
    played_with = [EVALUATION, f"{STOP_RULE}.situations", *run_parameters]
    looks = {f"iteration_{k}": f"valid_votes_{k}" for k in range(1, iteration + 1)}
    return Pipeline(
        [
            *(
                node(
                    nodes.play_valid_situations,
                    [BASE, policy, USER, "situations", "engine", *played_with],
                    f"valid_rollouts_{policy}",
                    name=f"rollout_{policy}",
                )
                for policy in pair
            ),
            node(
                nodes.judge_iteration,
                {
                    "judge": f"{STOP_RULE}.judge",
                    "judges": "judges",
                    **{policy: f"valid_rollouts_{policy}" for policy in pair},
                },
                f"valid_votes_{iteration}",
                name=f"judge_{iteration}",
            ),
            node(
                nodes.decide,
                {"evaluation": EVALUATION, "stop_rule": STOP_RULE, "iterations": "params:iterations", **looks},
                "iteration_verdicts",
                name=f"decide_{iteration}",
            ),
        ]
    )
