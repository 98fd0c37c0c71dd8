"""The pipelines by name.

The six stages, one entry for each policy that a run can make, the generated demo world, and the two pipelines
that run everything::

    microworld ──┐                                        ┌── per iteration k = 1 … ITERATIONS ──┐
                 v                                        v                                      │
    raw ─> data_processing ─> sac_augmentation ─> sft ─> self_play ─> preference ─> evaluation   │
           dialogues          sft_conversations   sage_1  sage_2 …    sage_dpo      win_rates    │
                                                          └──────────── sage_{k+1} <─────────────┘
"""

from __future__ import annotations

from functools import cache

from kedro.pipeline import Pipeline

from sage_dialog.pipelines import (
    base,
    data_processing,
    evaluation,
    microworld,
    preference,
    sac_augmentation,
    self_play,
    sft,
)

ITERATIONS = 2
"""Self-play iterations: `sage_2` to `sage_{ITERATIONS + 1}` come from them (paper §3.4)."""

POLICIES = (
    "sage_0",
    "sage_1",
    "sage_1_plain",
    *(f"sage_{iteration + 1}" for iteration in range(1, ITERATIONS + 1)),
    "sage_dpo",
)


@cache
def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline of the project; `kedro run --pipelines NAME` runs one of them.

    Nodes are named by their stage, such as `self_play.iteration_1.search`: kedro-viz folds stages by it.
    """
    fine_tuning = _of_stage("sft", sft.create_pipeline())
    iterations = {
        f"sage_{k + 1}": _of_stage("self_play", self_play.create_pipeline(k)) for k in range(1, ITERATIONS + 1)
    }
    stages = {
        "data_processing": _of_stage("data_processing", data_processing.create_pipeline()),
        "sac_augmentation": _of_stage("sac_augmentation", sac_augmentation.create_pipeline()),
        "sft": fine_tuning,
        "self_play": Pipeline(iterations.values()),
        "preference": _of_stage("preference", preference.create_pipeline(ITERATIONS)),
    }
    policies = {
        "sage_1": fine_tuning.to_outputs("sage_1"),
        "sage_1_plain": fine_tuning.to_outputs("sage_1_plain"),
        **iterations,
        "sage_dpo": stages["preference"],
    }
    evaluated = _of_stage("evaluation", evaluation.create_pipeline(POLICIES, ITERATIONS))
    evaluated_with_truth = evaluation.create_pipeline(POLICIES, ITERATIONS, external_scores=True)
    world = _of_stage("microworld", microworld.create_pipeline())
    demo = [
        *(world, *stages.values(), _of_stage("evaluation", evaluated_with_truth)),
        _of_stage("evaluation.truth", microworld.create_truth_pipeline()),
    ]
    return {
        **stages,
        "evaluation": evaluated,
        **policies,
        "base": _of_stage("base", base.create_pipeline()),
        "microworld": world,
        "demo": Pipeline(demo),
        "__default__": Pipeline([*stages.values(), evaluated]),
    }


def _of_stage(stage: str, nodes: Pipeline) -> Pipeline:
    """Return the same nodes under the stage's name; data and parameters, which stages share, keep theirs."""
    return Pipeline(nodes, namespace=stage, prefix_datasets_with_namespace=False)
