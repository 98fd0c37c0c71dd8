"""The pipelines by name.

The six stages, one entry for each policy that a run can make, one for each step of `kedro sage iterate`, the generated
demo world, and the two pipelines that run everything::

    microworld ──┐                                        ┌── per iteration k = 1 … iterations ──┐
                 v                                        v                                      │
    raw ─> data_processing ─> sac_augmentation ─> sft ─> self_play ─> preference ─> evaluation   │
           dialogues          sft_conversations   sage_1  sage_2 …    sage_dpo      win_rates    │
                                                          └──────────── sage_{k+1} <─────────────┘

The number of iterations, and the policies of the reference evaluation, are those of the session's parameters; without a
session, the number of the configuration and the policies of conf/base.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import click
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline

from sage_dialog.core.paths import display_path, project_folder
from sage_dialog.core.recipe import ABLATIONS, REFERENCE_POLICIES, policy_names
from sage_dialog.pipelines import (
    ablations,
    base,
    data_processing,
    evaluation,
    imagination,
    microworld,
    negotiation,
    offline_rl,
    preference,
    reference,
    sac_augmentation,
    self_play,
    self_play_rl,
    sft,
    stop_rule,
)

_of_session: int | None = None
"""The iterations of the latest session of this process."""

_reference_policies = REFERENCE_POLICIES
"""The policies that its reference evaluation compares."""

_reinforced = False
"""Whether it evaluates `sage_rl`."""


def register_pipelines() -> dict[str, Pipeline]:
    """Return every pipeline of the project; `kedro run --pipelines NAME` runs one of them."""
    return create_pipelines(_of_session or configured_iterations(), _reference_policies, _reinforced)


def use_iterations(iterations: int) -> None:
    """Set the number of self-play iterations up to which pipelines exist, in Kedro's `pipelines` as well."""
    global _of_session
    if iterations != _of_session:
        _of_session = iterations
        pipelines.configure(__name__)  # forgets those of another number


def use_reference_policies(policies: Sequence[str]) -> None:
    """Set the policies that the pipeline `reference` reads, in Kedro's `pipelines` as well."""
    global _reference_policies
    if tuple(policies) != _reference_policies:
        _reference_policies = tuple(policies)
        pipelines.configure(__name__)


def use_reinforced(reinforced: bool) -> None:
    """Set whether the evaluation plays `sage_rl`, in Kedro's `pipelines` as well."""
    global _reinforced
    if reinforced != _reinforced:
        _reinforced = reinforced
        pipelines.configure(__name__)


def configured_iterations() -> int:
    """Return `iterations` of globals.yml in the environment KEDRO_ENV, for commands without a session.

    Raises:
        click.ClickException: if it is no whole number of at least 1.
    """
    from omegaconf import OmegaConf

    folders = ("base", os.environ.get("KEDRO_ENV") or "local")
    files = [file for folder in folders if (file := project_folder() / "conf" / folder / "globals.yml").is_file()]
    merged: Any = OmegaConf.merge({}, *map(OmegaConf.load, files))
    found = merged.get("iterations")
    if not isinstance(found, int) or found < 1:
        where = " and ".join(str(display_path(file)) for file in files) or "conf/base/globals.yml"
        raise click.ClickException(f"iterations is {found!r}; set it to a whole number of at least 1 in {where}.")
    return found


@cache
def create_pipelines(
    iterations: int, reference_policies: tuple[str, ...] = REFERENCE_POLICIES, reinforced: bool = False
) -> dict[str, Pipeline]:
    """Return every pipeline for a number of self-play iterations and the policies of the evaluations.

    Nodes are named by their stage, such as `self_play.iteration_1.search`: kedro-viz folds stages by it.
    """
    fine_tuning = _of_stage("sft", sft.create_pipeline())
    rounds = {k: _of_stage("self_play", self_play.create_pipeline(k)) for k in range(1, iterations + 1)}
    stages = {
        "data_processing": _of_stage("data_processing", data_processing.create_pipeline()),
        "sac_augmentation": _of_stage("sac_augmentation", sac_augmentation.create_pipeline()),
        "sft": fine_tuning,
        "self_play": Pipeline(rounds.values()),
        "preference": _of_stage("preference", preference.create_pipeline(iterations)),
    }
    ablated = _of_stage("ablations", ablations.create_pipeline())
    policies = {
        "sage_1": fine_tuning.to_outputs("sage_1"),
        "sage_1_plain": fine_tuning.to_outputs("sage_1_plain"),
        **{f"sage_1_{arm}": ablated.to_outputs(f"sage_1_{arm}") for arm in ABLATIONS},
        **{f"sage_{k + 1}": nodes for k, nodes in rounds.items()},
        "sage_dpo": stages["preference"],
        "sage_rl": _of_stage("self_play_rl", self_play_rl.create_pipeline(iterations)),
    }
    names = policy_names(iterations, reinforced)
    evaluated = _of_stage("evaluation", evaluation.create_pipeline(names, iterations))
    evaluated_with_truth = evaluation.create_pipeline(names, iterations, external_scores=True)
    world = _of_stage("microworld", microworld.create_pipeline())
    goals = {
        "imagination": _of_stage("imagination", imagination.create_pipeline()),
        "offline_rl": _of_stage("offline_rl", offline_rl.create_pipeline()),
    }
    negotiations = _of_stage("negotiation", negotiation.create_pipeline())
    negotiation_rl = _of_stage("negotiation_rl", negotiation.create_learning_pipeline())
    by_truth = [
        _of_stage("evaluation", evaluated_with_truth),
        _of_stage("evaluation.truth", microworld.create_truth_pipeline()),
    ]
    return {
        **stages,
        "evaluation": evaluated,
        **policies,
        **{f"iterate_{k}": nodes + _of_stage("stop_rule", stop_rule.create_pipeline(k)) for k, nodes in rounds.items()},
        "ablations": ablated,
        "base": _of_stage("base", base.create_pipeline()),
        "self_play_rl": policies["sage_rl"],
        "reference": _of_stage("reference", reference.create_pipeline(reference_policies)),
        "microworld": world,
        **goals,
        "goal_demo": Pipeline([_of_stage("microworld", microworld.create_goal_base_pipeline()), *goals.values()]),
        "negotiation": negotiations,
        "negotiation_rl": negotiation_rl,
        "negotiation_demo": Pipeline(
            [
                negotiations,
                _of_stage("negotiation", negotiation.create_collection_pipeline()),
                _of_stage("microworld", microworld.create_negotiation_base_pipeline()),
                negotiation_rl,
            ]
        ),
        "demo": Pipeline([world, *stages.values(), *by_truth]),
        "demo_evaluation": Pipeline(by_truth),
        "__default__": Pipeline([*stages.values(), evaluated]),
    }


def _of_stage(stage: str, nodes: Pipeline) -> Pipeline:
    """Return the same nodes under the stage's name; data and parameters, which stages share, keep theirs."""
    return Pipeline(nodes, namespace=stage, prefix_datasets_with_namespace=False)
