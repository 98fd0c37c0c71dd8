"""The number of self-play iterations is a parameter that pipelines, pairs and commands follow."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession

from sage_dialog import pipeline_registry
from sage_dialog.commands.project import Project
from sage_dialog.commands.run import check_selection, follow_iterations
from sage_dialog.config import Evaluation, Reference
from sage_dialog.core.recipe import REFERENCE_POLICIES, policy_names, recipe_pairs
from sage_dialog.hooks.errors import RunRefused
from sage_dialog.pipeline_registry import (
    configured_iterations,
    create_pipelines,
    use_iterations,
    use_reference_policies,
)

BASE_PAIRS = [
    ["sage_0", "sage_1"],
    ["sage_1_plain", "sage_1"],
    ["sage_1", "sage_2"],
    ["sage_2", "sage_3"],
    ["sage_3", "sage_dpo"],
    ["sage_0", "sage_dpo"],
]


@pytest.fixture(autouse=True)
def restored(configured: Path) -> Iterator[None]:
    """Afterwards pipelines are those of the configuration again."""
    yield
    use_iterations(configured_iterations())
    use_reference_policies(REFERENCE_POLICIES)


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_all_pipelines_follow_the_number(iterations: int) -> None:
    made, last = create_pipelines(iterations), f"sage_{iterations + 1}"
    assert made["self_play"].all_outputs() & {f"sage_{k}" for k in range(9)} == {
        f"sage_{k}" for k in range(2, iterations + 2)
    }
    assert {last, f"candidates_{iterations}"} <= made["preference"].inputs() and "sage_dpo" in made[
        "preference"
    ].outputs()
    played = {name for name in made["evaluation"].all_outputs() if name.startswith("rollouts_")}
    assert played == {f"rollouts_{policy}" for policy in policy_names(iterations)}
    assert f"trajectories_{iterations}" in made["evaluation"].inputs()
    for k in range(1, iterations + 1):
        steps = made[f"iterate_{k}"]
        assert {f"sage_{k + 1}", f"valid_votes_{k}", "iteration_verdicts"} <= steps.all_outputs()
        assert {f"sage_{k}", *(f"valid_votes_{j}" for j in range(1, k))} - {"sage_0"} <= steps.inputs()
        assert not any(name.startswith("rollouts_") for name in steps.datasets())
    assert made["__default__"].outputs() >= {"report"} and f"iterate_{iterations + 1}" not in made


def test_pairs_follow_the_number_and_those_of_base_stay() -> None:
    assert recipe_pairs(2) == BASE_PAIRS == [list(pair) for pair in Evaluation.from_base().pairs]
    assert recipe_pairs(1)[2:] == [["sage_1", "sage_2"], ["sage_2", "sage_dpo"], ["sage_0", "sage_dpo"]]
    assert {policy for pair in recipe_pairs(4) for policy in pair} == {*policy_names(4)}


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_an_environment_sets_the_number(configured: Path, tmp_path: Path, iterations: int) -> None:
    shutil.copytree(configured / "conf", tmp_path / "conf")
    with (tmp_path / "conf/test/globals.yml").open("a") as file:
        file.write(f"iterations: {iterations}\n")
    project = Project(SimpleNamespace(project_path=tmp_path), "test")
    assert project.parameters.iterations == iterations and project.policies == policy_names(iterations)
    assert [list(pair) for pair in project.parameters.evaluation.pairs] == recipe_pairs(iterations)
    assert f"iterate_{iterations}" in pipelines and f"sage_{iterations + 2}" not in pipelines
    assert f"sage_{iterations + 1}" in project.registered
    follow_iterations({"params": {}, "conf_source": str(tmp_path / "conf")}, "base")
    assert "sage_3" in pipelines and "sage_4" not in pipelines
    follow_iterations({"params": {}, "conf_source": str(tmp_path / "conf")}, "test")
    assert f"sage_{iterations + 1}" in pipelines and f"sage_{iterations + 2}" not in pipelines
    if iterations == 3:  # another session, of another number
        Project(SimpleNamespace(project_path=tmp_path), "base")
        assert "sage_3" in pipelines and "sage_4" not in pipelines


def test_a_parameter_of_the_command_line_sets_the_number(open_session: Callable[..., KedroSession]) -> None:
    with open_session(iterations=3) as session:
        parameters = session.load_context().params
    assert [list(pair) for pair in parameters["evaluation"].pairs] == recipe_pairs(3) and "sage_4" in pipelines
    with open_session(iterations=1) as session, pytest.raises(RunRefused, match=r"candidates_1: .*--pipelines sage_2"):
        session.run(pipeline_names=["preference"], only_missing_outputs=False)
    assert "sage_3" not in pipelines


@pytest.mark.parametrize("value", [0, "two", 1.5])
def test_a_wrong_number_is_refused_by_its_name(open_session: Callable[..., KedroSession], value: object) -> None:
    with open_session(iterations=value) as session, pytest.raises(RunRefused, match=r"iterations: Input should be"):
        session.load_context()


def test_a_number_in_a_file_of_parameters_is_refused(configured: Path, tmp_path: Path) -> None:
    """The pairs of conf/base would not follow it."""
    shutil.copytree(configured / "conf", tmp_path / "conf")
    (tmp_path / "conf/test/parameters.yml").write_text("threads: 1\niterations: 3\n")
    with pytest.raises(RunRefused, match=r"set `iterations: 3` in conf/test/globals.yml"):
        Project(SimpleNamespace(project_path=tmp_path), "test")


def test_a_run_is_checked_against_the_pipelines_of_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"pipeline": None, "runner": None, "namespaces": None} | dict.fromkeys(
        ("tags", "from_nodes", "to_nodes", "node_names", "from_inputs", "to_outputs"), ()
    )
    use_iterations(3)
    check_selection({**options, "pipelines": ["sage_4"]})
    use_iterations(1)
    with pytest.raises(RunRefused, match=r"No pipeline is called 'sage_3', did you mean sage_2?"):
        check_selection({**options, "pipelines": ["sage_3"]})
    monkeypatch.setattr(pipeline_registry, "_of_session", None)
    assert "sage_3" in pipeline_registry.register_pipelines(), "without a session, as configured"


def test_sage_rl_is_evaluated_where_a_pair_names_it(open_session: Callable[..., KedroSession]) -> None:
    with open_session(evaluation={"pairs": [["sage_dpo", "sage_rl"]]}) as session:
        session.load_context()
        assert "rollouts_sage_rl" in pipelines["evaluation"].datasets()
        with pytest.raises(RunRefused, match=r"sage_rl: .*--pipelines sage_rl"):
            session.run(pipeline_names=["evaluation"], only_missing_outputs=False)
    with open_session(evaluation={"pairs": [["sage_1", "sage_dpo"]]}) as session:
        session.load_context()
        assert "rollouts_sage_rl" not in pipelines["evaluation"].datasets()


def test_the_reference_evaluation_reads_the_policies_of_the_session(open_session: Callable[..., KedroSession]) -> None:
    names = ["sage_0", "sage_1_emotion"]
    with open_session(reference={"policies": names, "pairs": [names]}) as session:
        session.load_context()
        assert {"sage_1_emotion", "sage_0"} <= pipelines["reference"].inputs()
        assert "sage_1_plain" not in pipelines["reference"].inputs()
        with pytest.raises(RunRefused, match=r"sage_1_emotion: .*--pipelines sage_1_emotion"):
            session.run(pipeline_names=["reference"], only_missing_outputs=False)
    with (
        open_session(reference={"policies": names}) as session,
        pytest.raises(RunRefused, match="'sage_1_plain' is not"),
    ):
        session.load_context()


def test_the_policies_of_base_are_those_without_a_session() -> None:
    assert Reference.from_base().policies == REFERENCE_POLICIES


@pytest.mark.parametrize(
    ("pipeline", "package", "module"),
    [("reference", "sacrebleu", "sacrebleu"), ("negotiation_demo", "scikit-learn", "sklearn")],
)
def test_a_missing_package_of_an_evaluation_is_named(
    open_session: Callable[..., KedroSession], monkeypatch: pytest.MonkeyPatch, pipeline: str, package: str, module: str
) -> None:
    monkeypatch.setattr("sage_dialog.hooks.inputs._is_installed", lambda name: name != module)
    with (
        open_session() as session,
        pytest.raises(RunRefused, match=rf"needs {package}, .* pip install '.\[reference\]'"),
    ):
        session.run(pipeline_names=[pipeline], only_missing_outputs=False)
