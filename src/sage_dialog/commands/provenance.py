"""What catalog and configuration know of a policy: which data made it, by which recipe, how well it does."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro.io.core import VersionNotFoundError

from sage_dialog.commands.policies import Project
from sage_dialog.core.hub_models import BASE, is_on_hub
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import to_arrow
from sage_dialog.datasets.endpoint import EndpointDataset
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.policy import PolicyDirectory
from sage_dialog.datasets.raw_folder import RawFolder
from sage_dialog.export.folder import BASE_FOLDER
from sage_dialog.export.model_card import ModelCard, Results, Step
from sage_dialog.inference.vllm.served_policies import lora_rank
from sage_dialog.pipeline_registry import register_pipelines

if TYPE_CHECKING:
    from pathlib import Path

    from kedro.pipeline import Pipeline

    from sage_dialog.lineage.records import RunFolder

NOT_OF_A_RECIPE = frozenset({"seed", "threads", "scratch", "launcher", "llm"})
"""Parameters that say where and how fast, not what; a recipe begins with the seed as it is."""

Entry = TypeVar("Entry", bound="AbstractVersionedDataset[Any, Any]")


def model_card(
    project: Project, runs: RunFolder, policy: Policy, version: str, merge: bool, target: Path, env: str
) -> ModelCard:
    """The card of an adapter that will lie in `target`. Weights are hashed, not loaded."""
    flow = register_pipelines()["__default__"].to_outputs(policy.name)
    read = [name for node in flow.nodes for name in node.inputs]
    steps = list(_steps(project, runs, policy, version, flow))[::-1]
    revision = policy.revision()
    results = _results(project, policy.name, revision)
    recipe, unrecorded = _recipe(project, runs, version, flow, results.version if results else None)
    record = runs.find(version)
    return ModelCard(
        policy=policy.card,
        version=version,
        revision=revision,
        merged=merge,
        base_folder=None if merge or is_on_hub(policy.card) else str(target / BASE_FOLDER),
        adapter=_adapter(policy),
        steps=steps,
        raw=sorted(name for name in set(read) if isinstance(project.catalog.get(name), RawFolder)),
        roles=_roles(project, read, steps, env),
        env=env,
        recipe=recipe,
        unrecorded=unrecorded,
        code=record.git.revision + (", changed" if record.git.changed else "") if record and record.git else None,
        system_prompt=recipe["sac_augmentation"]["system_prompts"].get("listener"),
        results=results,
    )


def versions(entry: AbstractVersionedDataset[Any, Any]) -> list[str]:
    """The versions of a catalog entry, the latest first."""
    try:
        return entry.list_versions(full_path=False)
    except VersionNotFoundError:
        return []


def at(entry: Entry, version: str) -> Entry:
    """A catalog entry that loads one of its versions."""
    entry = copy.copy(entry)
    entry._version = Version(version, None)
    return entry


def _adapter(policy: Policy) -> dict[str, Any]:
    said = json.loads((policy.path / "adapter_config.json").read_text())
    modules, fused = said["target_modules"] or [], said.get("target_parameters") or []
    named = [modules] if isinstance(modules, str) else sorted({module.rpartition(".")[2] for module in modules})
    whole = bool(said.get("modules_to_save"))  # full fine-tuning
    form = f"rank {said['r']}, alpha {said['lora_alpha']}, on {', '.join([*named, *sorted(fused)])}"
    return {
        "form": "all weights" if whole else form,
        "lora_rank": lora_rank(said["r"]),
        "only_merged": whole or bool(fused),
    }


def _told(runs: RunFolder, run: str) -> dict[str, str]:
    """The version of each dataset that a run wrote or read, or the runs did that had made what it read."""
    told: dict[str, str] = {}
    ahead, seen = [run], set()
    while ahead:
        if (name := ahead.pop(0)) in seen or (record := runs.find(name)) is None:
            continue
        seen.add(name)
        written = {dataset: part.version for dataset, part in record.writes.items()}
        for dataset, version in ({dataset: part.version for dataset, part in record.reads.items()} | written).items():
            if version is not None:
                told.setdefault(dataset, version)
                ahead.append(version)
    return told


def _recipe(
    project: Project, runs: RunFolder, run: str, flow: Pipeline, evaluated: str | None
) -> tuple[dict[str, Any], list[str]]:
    """The parameters of each stage as the run had them that made its outputs; and the stages of which none tells."""
    now = project.parameters.model_dump(mode="json")
    told, recipe, unrecorded = _told(runs, run), {"seed": now["seed"]}, []
    asked = {name for node in flow.nodes for name in node.inputs if name.startswith("params:")}
    for stage in now:
        if f"params:{stage}" not in asked | {"params:evaluation"} or stage in NOT_OF_A_RECIPE:
            continue
        made = [name for node in flow.nodes if f"params:{stage}" in node.inputs for name in node.outputs]
        by = evaluated if stage == "evaluation" else max((told[name] for name in made if name in told), default=None)
        record = runs.find(by) if by else None
        if record is None or stage not in record.parameters:
            unrecorded.append(stage)
        recipe[stage] = record.parameters.get(stage, now[stage]) if record else now[stage]
    if record := runs.find(run):
        recipe["seed"] = record.parameters.get("seed", now["seed"])
    rules = recipe["data_processing"]
    recipe["data_processing"] = {**rules, "rule_sets": {rules["rules"]: rules["rule_sets"][rules["rules"]]}}
    return recipe, unrecorded


def _steps(project: Project, runs: RunFolder, policy: Policy, version: str, flow: Pipeline) -> Iterator[Step]:
    """The trainings that made a policy, the last one first, each with the tables that the ones before have not read.

    Policies are known by their weights, tables by the records of runs; where there is none, a table is taken to be the
    latest of that time.
    """
    card, parent = policy.card, policy.card.parent
    earlier = flow.to_outputs(parent) if parent and parent != BASE else None
    read = {name for node in (flow - earlier if earlier else flow).nodes for name in node.inputs}
    entries = {name: project.catalog.get(name) for name in sorted(read)}
    told = _told(runs, version)
    tables = [
        (name, told.get(name) or next((found for found in versions(entry) if found <= version), None))
        for name, entry in entries.items()
        if isinstance(entry, AtomicParquet)
    ]
    yield Step(card.name, version, policy.revision(), tables, all(name in told for name, _ in tables))
    if parent and earlier:
        found = _with_weights(project, parent, card.parent_revision)
        if found is None:
            yield Step(parent, None, card.parent_revision or "", (), True)
        else:
            yield from _steps(project, runs, *found, earlier)


def _with_weights(project: Project, name: str, revision: str | None) -> tuple[Policy, str] | None:
    """The latest version of a policy that has these weights."""
    entry = project.catalog.get(name)
    if isinstance(entry, PolicyDirectory):
        for version in versions(entry):
            with contextlib.suppress(DatasetError):  # a damaged one is not meant
                policy = at(entry, version).load()
                if policy.revision() == revision:
                    return policy, version
    return None


def _roles(project: Project, read: list[str], steps: list[Step], env: str) -> dict[str, str]:
    """The annotator by the data, the selector by the configuration, since no table names it."""
    roles = {}
    annotations = dict(table for step in steps for table in step.tables).get("annotations")
    entry = project.catalog.get("annotations")
    if annotations and isinstance(entry, AtomicParquet):
        roles["annotator"] = ", ".join(sorted(set(to_arrow(at(entry, annotations).load())["annotator"].to_pylist())))
    selector = project.catalog.get("selector")
    if "selector" in read and isinstance(selector, EndpointDataset):
        behind = f"the one behind a server that `selector` of the environment {env} names"
        roles["selector"] = behind if selector.uses_server else selector.load().name
    return roles


def _results(project: Project, name: str, revision: str) -> Results | None:
    """Of the latest evaluation that knew a policy by these very weights."""
    cards = project.catalog.get("policy_cards")
    for version in versions(cards) if isinstance(cards, AtomicParquet) else ():
        known = {row["policy"]: row["revision"] for row in _rows(project, "policy_cards", version)}
        if known.get(name) == revision:
            rows = {table: _rows(project, table, version) for table in ("emotion_accuracy", "failure_modes")}
            return Results(
                version=version,
                win_rates=[r for r in _rows(project, "win_rates", version) if name in (r["policy_a"], r["policy_b"])],
                **{table: [row for row in found if row["policy"] == name] for table, found in rows.items()},
            )
    return None


def _rows(project: Project, table: str, version: str) -> list[dict[str, Any]]:
    """Of a table as one run wrote it; none where it wrote none, or where it is damaged."""
    rows: list[dict[str, Any]] = []
    entry = project.catalog.get(table)
    if isinstance(entry, AtomicParquet) and version in versions(entry):
        with contextlib.suppress(DatasetError):
            rows = to_arrow(at(entry, version).load()).to_pylist()
    return rows
