"""The documentation names modules, commands, nodes, parameters, tables and columns that exist."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from click import Context
from kedro.pipeline import Pipeline

from sage_dialog import schemas
from sage_dialog.cli import sage
from sage_dialog.config import DataProcessing, Parameters
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.pipeline_registry import register_pipelines

PROJECT = Path(__file__).parents[1]
TEXTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


def test_the_paper_map_names_modules_and_parameters_that_exist() -> None:
    rows = [line for line in (PROJECT / "docs/paper-map.md").read_text().splitlines() if line.startswith("| §")]
    paths = [path for row in rows for path in re.findall(r"`([a-z_/]+(?:/[a-z_]*|\.py))`", row)]
    parameters = [name for row in rows for name in re.findall(r"`([a-z_.]+)`", row.split("|")[3]) if "/" not in name]
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT / "src/sage_dialog" / path).exists()] == []
    assert [name for name in parameters if name.split(".")[0] not in Parameters.model_fields] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_pipeline_that_is_named_is_registered(text: Path, pipelines: dict[str, Pipeline]) -> None:
    named = re.findall(r"kedro run[^\n`]*--pipelines ([a-z_0-9,]+)", text.read_text())
    assert [name for names in named for name in names.split(",") if name not in pipelines] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_node_that_is_run_exists(text: Path, pipelines: dict[str, Pipeline]) -> None:
    named = re.findall(r"kedro run[^\n`]*--(?:to-)?nodes ([a-z_0-9.,]+)", text.read_text())
    nodes = {node.name for pipeline in pipelines.values() for node in pipeline.nodes}
    assert [name for names in named for name in names.split(",") if name not in nodes] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_command_of_kedro_sage_and_its_options_exist(text: Path) -> None:
    for name, arguments in re.findall(r"kedro sage ([a-z]+)([^`\n#]*)", text.read_text()):
        command = sage.get_command(Context(sage), name)
        group = [command, *getattr(command, "commands", {}).values()]
        options = {option for each in group for parameter in each.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", arguments)) - {"--help"} <= options, (name, arguments)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_parameter_that_is_set_exists(text: Path) -> None:
    files = (yaml.safe_load(file.read_text()) for file in (PROJECT / "conf/base").glob("parameters*.yml"))
    base = {name: value for parameters in files for name, value in parameters.items()}
    for assignments in re.findall(r"--params '?([^\s`']+)", text.read_text()):
        for dotted in re.findall(r"(?:^|,)([a-z_0-9.]+)=", assignments):
            assert is_parameter(dotted.split("."), base), dotted


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_a_command_that_sets_a_parameter_of_a_stage_names_what_it_runs(text: Path) -> None:
    commands = re.findall(r"kedro run[^\n`#]*--params [^\n`#]*", text.read_text())
    stages = (
        "data_processing.",
        "sac_augmentation.",
        "sft.",
        "self_play.",
        "preference.",
        "evaluation.",
        "microworld.",
    )
    runs_all = [each for each in commands if "--pipelines" not in each and "--nodes" not in each]
    assert [each for each in runs_all if any(stage in each.partition("--params")[2] for stage in stages)] == []


def is_parameter(path: list[str], values: Any) -> bool:
    """Whether a path leads to a value in conf/base, or into a mapping whose keys are chosen by the user."""
    if not path or values == {}:
        return True
    return isinstance(values, dict) and path[0] in values and is_parameter(path[1:], values[path[0]])


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_every_link_into_the_project_exists(text: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text.read_text())
    assert [link for link in links if not (text.parent / link).exists()] == []


def test_every_make_target_that_is_named_exists() -> None:
    commands = re.findall(r"(?:^|`)make ([a-z]+)", (PROJECT / "README.md").read_text(), re.MULTILINE)
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "lint"} <= set(commands) <= targets


def test_every_reddit_rule_is_documented_in_its_order_and_words() -> None:
    section = (PROJECT / "docs/reddit.md").read_text().split("## The rules")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in section.splitlines() if line.startswith("| `")]
    documented = [(rule.strip("`"), removes.replace("`", "")) for rule, removes in rows][: len(Rule)]
    assert documented == [(rule.value, f"{rule.unit}s {rule.meaning}") for rule in Rule]


def test_the_documented_values_of_reddit_rules_are_those_of_the_configuration() -> None:
    sets = DataProcessing.from_base().model_dump(mode="json")["rule_sets"]
    paper, literal = sets["paper"], sets["literal"]
    section = (PROJECT / "docs/reddit.md").read_text().split("## The rules")[1]
    compared = 0
    for line in section.splitlines():
        if line.startswith("| `") and (named := [name for name in paper if f"`{name}`" in line]):
            values = [cell.strip() for cell in line.split("|")[3:5]]
            default, other = (yaml.safe_load(value.replace("none", "[]")) for value in values)
            assert default == paper[named[0]], line
            assert (default if other is None else other) == literal.get(named[0], paper[named[0]]), line
            compared += 1
    assert compared >= len(paper) - 2  # a sentence describes how a path climbs


def test_every_table_is_documented_column_by_column() -> None:
    sections = (PROJECT / "docs/tables.md").read_text().split("\n## ")
    for file in sorted((PROJECT / "conf/base").glob("catalog_*.yml")):
        for name, entry in yaml.safe_load(file.read_text()).items():
            if "validator" in entry:
                section = next(section for section in sections if f"`{name}`" in section.splitlines()[0])
                schema: pa.Schema = getattr(schemas, entry["validator"].rpartition(".")[2])
                columns = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
                assert columns == schema.names, name


@pytest.mark.slow
def test_the_evidence_states_the_figures_of_the_kept_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    spec = importlib.util.spec_from_file_location("reference_benchmark", PROJECT / "benchmarks/reference.py")
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    page = " ".join((PROJECT / "docs/evidence.md").read_text().replace("−", "-").split())
    figures = benchmark.pooled_figures(benchmark.kept_results(benchmark.RESULTS))
    assert figures
    for corpus, found in figures.items():
        low, high = found["chain_minus_plain_bpb_interval"]
        shares = ("emotion_top1", "tfidf_top1", "tfidf_same_top1", "strategy_accuracy", "majority_accuracy")
        stated = [f"{found['chain_minus_plain_bpb']:+.4f} ({low:+.4f} to {high:+.4f})"]
        stated += [f"{100 * found[name]:.1f} %" for name in shares]
        assert [text for text in stated if text not in page] == [], corpus
