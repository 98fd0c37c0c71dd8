"""The provenance of a policy from catalog, run records and configuration, for its model card."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kedro.framework.project import pipelines
from kedro.io import DatasetError
from kedro.pipeline import Pipeline

from sage_dialog.commands.project import Project
from sage_dialog.core.hub_models import BASE, is_on_hub
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import to_rows
from sage_dialog.corpora.labelled import FOLDERS
from sage_dialog.datasets.endpoint import EndpointDataset
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.policy import PolicyDirectory
from sage_dialog.datasets.raw_folder import RawFolder
from sage_dialog.export.folder import BASE_FOLDER
from sage_dialog.export.model_card import ModelCard, Results, Step
from sage_dialog.inference.vllm.served_policies import lora_rank

NOT_IN_RECIPE = frozenset({"seed", "threads", "scratch", "launcher", "llm"})
"""Parameters that set where and how fast a stage runs; the seed is added to a recipe separately."""


def build_model_card(
    project: Project,
    policy: Policy,
    version: str,
    merge: bool,
    gguf: str | None,
    target: Path,
    env: str,
) -> ModelCard:
    """Return the model card of an adapter that is exported to `target`. Weights are hashed, not loaded.

    Args:
        gguf: name of the file for llama.cpp; None without.
    """
    pipeline = pipelines["__default__"].to_outputs(policy.name)
    inputs = {name for node in pipeline.nodes for name in node.inputs}
    steps = list(_steps(project, policy, version, pipeline))[::-1]
    revision = policy.revision()
    results = _results(project, policy.name, revision)
    recipe, unrecorded = _recipe(project, version, pipeline, results.version if results else None)
    record = project.runs.find(version)
    code = record.git.revision + (", changed" if record.git.changed else "") if record and record.git else None
    return ModelCard(
        policy=policy.card,
        version=version,
        revision=revision,
        merged=merge,
        gguf=gguf,
        base_folder=None if merge or is_on_hub(policy.card) else str(target / BASE_FOLDER),
        adapter=_adapter(policy),
        steps=steps,
        raw=_raw(project, pipeline, recipe["corpora"]["read"]),
        roles=_roles(project, inputs, steps, env),
        env=env,
        recipe=recipe,
        unrecorded=unrecorded,
        code=code,
        system_prompt=recipe["sac_augmentation"]["system_prompts"].get("listener"),
        results=results,
    )


def _raw(project: Project, pipeline: Pipeline, corpora: Sequence[str]) -> list[str]:
    """Return the raw data that a pipeline reads. The folders of corpora are inputs also where no corpus is read."""
    read = {folder for corpus in corpora for folder in FOLDERS[corpus]}
    read |= {name for node in pipeline.nodes if "params:corpora" not in node.inputs for name in node.inputs}
    return sorted(name for name in read & pipeline.inputs() if isinstance(project.catalog.get(name), RawFolder))


def _adapter(policy: Policy) -> dict[str, Any]:
    config = json.loads((policy.path / "adapter_config.json").read_text())
    modules, fused = config["target_modules"] or [], config.get("target_parameters") or []
    names = [modules] if isinstance(modules, str) else sorted({module.rpartition(".")[2] for module in modules})
    full = bool(config.get("modules_to_save"))  # full fine-tuning
    lora = f"rank {config['r']}, alpha {config['lora_alpha']}, on {', '.join([*names, *sorted(fused)])}"
    return {
        "form": "all weights" if full else lora,
        "lora_rank": lora_rank(config["r"]),
        "only_merged": full or bool(fused),
    }


def _recorded_versions(project: Project, run: str) -> dict[str, str]:
    """Return the version of each dataset that a run read or wrote, and that the runs did which made its inputs."""
    versions: dict[str, str] = {}
    waiting, seen = [run], set()
    for name in waiting:  # breadth first: the loop appends to it
        if name in seen or (record := project.runs.find(name)) is None:
            continue
        seen.add(name)
        for dataset, part in (record.reads | record.writes).items():
            if part.version is not None:
                versions.setdefault(dataset, part.version)
                waiting.append(part.version)
    return versions


def _recipe(project: Project, run: str, pipeline: Pipeline, evaluation: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters of each stage in the run that made its outputs, and the stages without a record.

    Args:
        evaluation: the run that evaluated the policy.
    """
    current = project.parameters.model_dump(mode="json")
    runs, versions = project.runs, _recorded_versions(project, run)
    record = runs.find(run)
    recipe: dict[str, Any] = {"seed": (record.parameters if record else {}).get("seed", current["seed"])}
    unrecorded = []
    for stage in current:
        nodes = [node for node in pipeline.nodes if f"params:{stage}" in node.inputs]
        if stage in NOT_IN_RECIPE or not (nodes or stage == "evaluation"):
            continue
        made = [versions[name] for node in nodes for name in node.outputs if name in versions]
        stage_run = evaluation if stage == "evaluation" else max(made, default=None)
        record = runs.find(stage_run) if stage_run else None
        if record is None or stage not in record.parameters:
            unrecorded.append(stage)
        recipe[stage] = record.parameters.get(stage, current[stage]) if record else current[stage]
    rules = recipe["data_processing"]
    recipe["data_processing"] = {**rules, "rule_sets": {rules["rules"]: rules["rule_sets"][rules["rules"]]}}
    corpora = recipe["corpora"]
    recipe["corpora"] = {**corpora, "labels": {name: corpora["labels"][name] for name in corpora["read"]}}
    return recipe, unrecorded


def _steps(project: Project, policy: Policy, version: str, pipeline: Pipeline) -> Iterator[Step]:
    """Yield the trainings of a policy, the last one first, each with the tables that earlier ones did not read.

    Policies are identified by their weights, tables by run records, and without a record by the time of the training.
    """
    card, parent = policy.card, policy.card.parent
    earlier = pipeline.to_outputs(parent) if parent and parent != BASE else None
    inputs = {name for node in (pipeline - earlier if earlier else pipeline).nodes for name in node.inputs}
    recorded = _recorded_versions(project, version)
    tables = [
        (name, recorded.get(name) or next((found for found in project.versions(name) if found <= version), None))
        for name in sorted(inputs)
        if isinstance(project.versioned(name), AtomicParquet)
    ]
    rejects = f"training_rejects_{card.name}"
    left_out = len(_rows(project, rejects, version)) if version in project.versions(rejects) else None
    yield Step(card.name, version, policy.revision(), tables, all(name in recorded for name, _ in tables), left_out)
    if parent and earlier:
        found = _find_weights(project, parent, card.parent_revision)
        if found is None:
            yield Step(parent, None, card.parent_revision or "", (), True, None)
        else:
            yield from _steps(project, *found, earlier)


def _find_weights(project: Project, name: str, revision: str | None) -> tuple[Policy, str] | None:
    """Return the latest version of a policy with these weights."""
    if isinstance(project.versioned(name), PolicyDirectory):
        for version in project.versions(name):
            with contextlib.suppress(DatasetError):  # a damaged version
                policy = project.load_version(name, version)
                if policy.revision() == revision:
                    return policy, version
    return None


def _roles(project: Project, inputs: set[str], steps: list[Step], env: str) -> dict[str, str]:
    """Return the annotator by the data, and the selector by the configuration, since no table names it."""
    roles = {}
    if version := dict(table for step in steps for table in step.tables).get("annotations"):
        roles["annotator"] = ", ".join(sorted(set(project.load_version("annotations", version)["annotator"])))
    selector = project.catalog.get("selector")
    if "selector" in inputs and isinstance(selector, EndpointDataset):
        on_server = f"the model on the server of `selector` in the environment {env}"
        roles["selector"] = on_server if selector.uses_server else selector.load().name
    return roles


def _results(project: Project, name: str, revision: str) -> Results | None:
    """Return the results of the latest evaluation of a policy with these weights."""
    for version in project.versions("policy_cards"):
        revisions = {row["policy"]: row["revision"] for row in _rows(project, "policy_cards", version)}
        if revisions.get(name) == revision:
            win_rates = _rows(project, "win_rates", version)
            return Results(
                version=version,
                win_rates=[row for row in win_rates if name in (row["policy_a"], row["policy_b"])],
                **{
                    table: [row for row in _rows(project, table, version) if row["policy"] == name]
                    for table in ("emotion_accuracy", "failure_modes")
                },
            )
    return None


def _rows(project: Project, table: str, version: str) -> list[dict[str, Any]]:
    """Return the rows of a version of a table; none if there is no such version, or it is damaged."""
    if version in project.versions(table):
        with contextlib.suppress(DatasetError):
            return to_rows(project.load_version(table, version))
    return []
