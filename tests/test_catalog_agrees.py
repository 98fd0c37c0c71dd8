"""Catalog, parameters, schemas and pipelines name the same things."""

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic import BaseModel

from sage_dialog import schemas, settings
from sage_dialog.commands.steer import GRID
from sage_dialog.config import Blend, BlockField, LabelMap, Parameters
from sage_dialog.core.recipe import policy_names
from sage_dialog.datasets.protocol import TrackedDataset
from sage_dialog.hooks.validation import models_in, validate_parameters
from sage_dialog.pipeline_registry import create_pipelines, register_pipelines

ENVIRONMENTS = ("base", "test")
PARQUET = "sage_dialog.datasets.parquet.AtomicParquet"
POLICY = "sage_dialog.datasets.policy.PolicyDirectory"


def loader(project: Path, env: str) -> OmegaConfigLoader:
    return OmegaConfigLoader(str(project / "conf"), env=env, **settings.CONFIG_LOADER_ARGS)


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


@pytest.fixture(scope="module")
def used_names(pipelines: dict[str, Pipeline]) -> set[str]:
    """Every dataset and parameter that a pipeline names."""
    return set().union(*(pipeline.datasets() for pipeline in pipelines.values()))


@pytest.fixture(scope="module")
def entries(configured: Path) -> dict[str, dict[str, Any]]:
    return {name: entry for name, entry in loader(configured, "base")["catalog"].items() if not name.startswith("_")}


@pytest.fixture(scope="module")
def catalog(entries: dict[str, dict[str, Any]]) -> DataCatalog:
    return DataCatalog.from_config(entries)


def is_parameter(name: str) -> bool:
    return name == "parameters" or name.startswith("params:")


def test_every_dataset_of_a_pipeline_is_in_the_catalog(used_names: set[str], catalog: DataCatalog) -> None:
    assert sorted(name for name in used_names if not is_parameter(name) and name not in catalog) == []


def test_every_catalog_entry_is_used(
    used_names: set[str], entries: dict[str, dict[str, Any]], catalog: DataCatalog
) -> None:
    resolver = catalog.config_resolver
    used = {name for name in entries if name in used_names}
    used |= {pattern for name in used_names - used if (pattern := resolver.match_dataset_pattern(name))}
    used |= {GRID}  # written by a command
    assert sorted(set(entries) - used) == []


def test_every_table_has_a_schema_and_every_schema_a_table(entries: dict[str, dict[str, Any]]) -> None:
    validators = {name: entry.get("validator") for name, entry in entries.items() if entry["type"] == PARQUET}
    assert [name for name, validator in validators.items() if validator is None] == []
    known = {name for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}
    assert set(validators.values()) == {f"sage_dialog.datasets.schema.{name}" for name in known}


def test_every_entry_describes_itself_to_run_records(used_names: set[str], catalog: DataCatalog) -> None:
    untracked = [
        name for name in used_names if not is_parameter(name) if not isinstance(catalog.get(name), TrackedDataset)
    ]
    assert untracked == []


def test_no_two_datasets_share_a_place(used_names: set[str], catalog: DataCatalog) -> None:
    paths: dict[str, str] = {}
    for name in sorted(used_names):
        dataset = None if is_parameter(name) else catalog.get(name)
        if (filepath := getattr(dataset, "_filepath", None)) is not None:
            assert paths.setdefault(str(filepath), name) == name


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_every_policy_but_the_base_has_a_pipeline_of_its_name(iterations: int, catalog: DataCatalog) -> None:
    pipelines = create_pipelines(iterations)
    assert f"sage_{iterations + 2}" not in pipelines
    for policy in policy_names(iterations, reinforced=True):
        assert catalog.get_type(policy) == POLICY
        if policy != "sage_0":
            assert policy in pipelines[policy].outputs()


def test_one_iteration_runs_alone(pipelines: dict[str, Pipeline]) -> None:
    assert "sage_2" in pipelines["sage_3"].inputs()
    assert "sage_2" not in pipelines["sage_3"].all_outputs()


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_parameters_of_an_environment_are_valid(configured: Path, env: str) -> None:
    validate_parameters(loader(configured, env)["parameters"], env)


def test_base_sets_every_parameter(configured: Path) -> None:
    raw = loader(configured, "base")["parameters"]
    rule_sets = raw["data_processing"]["rule_sets"]
    raw["data_processing"]["rule_sets"] = rule_sets["paper"]  # other sets have only differences
    raw["corpora"]["labels"] = {
        field: {"label": None, "of": None, "values": None}
        for field in LabelMap.model_fields  # one map a corpus
    }
    llm = raw["llm"]
    llm["role_caps"], (llm["prices"],) = llm["caps"], llm["prices"].values()  # keys are chosen by the user
    raw["evaluation"]["benchmarks"]["few_shot"] = None  # keys are chosen by the user
    raw["sac_augmentation"]["blend"] = dict.fromkeys(Blend.model_fields)  # null in conf/base
    for stage in ("self_play", "evaluation", "rl_play"):
        for name in ("boosts", "fixed"):
            raw[stage]["steering"][name] |= dict.fromkeys(get_args(BlockField))  # keys are chosen by the user
    raw["imagination"]["tasks"] = None  # files of the user's own form; other tests read them
    declared = {re.sub(r"(imagination\.tasks)\..*", r"\1", name) for name in declared_leaves(Parameters)}
    assert configured_leaves(raw) == declared


def test_every_parameter_is_used(used_names: set[str]) -> None:
    used = {name.removeprefix("params:").split(".")[0] for name in used_names if name.startswith("params:")}
    assert used | {"llm", "mix_versions"} == set(Parameters.model_fields)  # used by hooks


def test_nodes_take_their_stage_typed(pipelines: dict[str, Pipeline]) -> None:
    """Kedro builds the model that the signature names; without a type a node gets a mapping."""
    stages = {name: model for name, field in Parameters.model_fields.items() for model in models_in(field.annotation)}
    untyped = []
    for node in set().union(*(pipeline.nodes for pipeline in pipelines.values())):
        hints = get_type_hints(node.func)
        for argument, name in named_inputs(node):
            stage = name.removeprefix("params:")
            if stage in stages and hints.get(argument) is not stages[stage]:
                untyped.append(f"{node.name}({argument}) takes params:{stage}, typed {hints.get(argument)}")
    assert untyped == []


def named_inputs(node: Node) -> list[tuple[str, str]]:
    """Return (argument, dataset) of a node for any form of its inputs, without `*arguments`."""
    if isinstance(node._inputs, dict):
        return list(node._inputs.items())
    positional = [
        argument.name
        for argument in inspect.signature(node.func).parameters.values()
        if argument.kind is argument.POSITIONAL_OR_KEYWORD
    ]
    return list(zip(positional, node.inputs, strict=False))


def configured_leaves(tree: Any, path: str = "") -> set[str]:
    """Return the dotted names of the leaves of a configuration; a list counts as its first element."""
    if isinstance(tree, list):
        return configured_leaves(tree[0], path) if tree else {path}
    if isinstance(tree, dict):
        return set().union(*(configured_leaves(value, f"{path}.{key}".strip(".")) for key, value in tree.items()))
    return {path}


def declared_leaves(model: type[BaseModel], path: str = "") -> set[str]:
    """Return the dotted names of the leaves of a parameter model, with the keys of mappings."""
    leaves: set[str] = set()
    for name, field in model.model_fields.items():
        inner = next(models_in(field.annotation), None)
        here = f"{path}.{name}".strip(".")
        leaves |= (
            declared_leaves(inner, here)
            if inner
            else {f"{here}.{key}".strip(".") for key in mapping_keys(field.annotation)}
        )
    return leaves


def mapping_keys(annotation: Any) -> list[str]:
    """Return the keys of a `dict[Literal[…], …]`; for other types one empty key."""
    origin, arguments = getattr(annotation, "__origin__", None), getattr(annotation, "__args__", ())
    return list(getattr(arguments[0], "__args__", [""])) if origin is dict else [""]
