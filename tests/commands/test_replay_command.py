"""`kedro sage replay` on real stages, without training."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession

from sage_dialog.commands.replay import replay
from sage_dialog.commands.status import status
from sage_dialog.lineage.replay_plan import merge_trees, parameter_overrides
from sage_dialog.lineage.run_folder import RunFolder

pytestmark = pytest.mark.slow

HELLO = "sac_augmentation.system_prompts.listener=Hello."


def invoke(project, *options: str) -> Result:
    return CliRunner().invoke(replay, ["latest", "--env", "test", *options], obj=project.metadata)


def verdicts(project, *options: str) -> dict[str, Any]:
    done = invoke(project, "--yes", "--json", *options)
    assert done.exit_code in (0, 1), done.output
    result = json.loads(done.stdout)
    assert done.exit_code == (not all(one["identical"] for one in result["outputs"]))
    return result


def left(project) -> list[Path]:
    return [path for path in (project.data / "replays").rglob("*") if path.is_file()]


def test_a_replay_is_identical_and_makes_nothing_stale(project) -> None:
    (run,) = project.runs.names()[:1]
    versions = sorted(project.data.glob("0*/*/*"))
    result = verdicts(project)
    assert {one["dataset"] for one in result["outputs"]} == set(project.runs.load(run).writes)
    assert all(one["identical"] for one in result["outputs"])
    assert project.runs.load(result["replay"]).replay_of == result["run"] == run
    assert sorted(project.data.glob("0*/*/*")) == versions and left(project) == []
    made = ["--env", "test", "--pipelines", "data_processing,sac_augmentation"]
    assert CliRunner().invoke(status, made, obj=project.metadata).exit_code == 0
    assert verdicts(project, "--node", "mix_plain")["run"] == run, "a replay is no run to replay"


def test_two_replays_of_a_run_at_once_keep_their_unfinished_work(project) -> None:
    record = project.runs.load("latest")
    work = project.data / "replays" / record.run / "scratch/search/work"
    work.mkdir(parents=True)
    other = record.model_copy(
        update={"run": "2026-01-01T00.00.00.000Z", "replay_of": record.run, "outcome": "running", "ended": None}
    )
    project.runs.begin(other)  # its process is this one
    assert verdicts(project, "--node", "mix_plain")["run"] == record.run
    assert work.exists()
    project.runs.save(other.model_copy(update={"outcome": "done"}))
    verdicts(project, "--node", "mix_plain")
    assert not work.exists()


def test_a_replay_that_cannot_write_says_so(project, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(folder: RunFolder, record: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder.path))

    monkeypatch.setattr(RunFolder, "begin", begin)
    done = invoke(project, "--yes")
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert f"{project.data}/runs cannot be written: its file system is read-only." in done.stderr
    assert left(project) == []


def test_a_changed_parameter_changes_only_the_outputs_it_affects(project) -> None:
    result = verdicts(project, "--params", HELLO)
    found = {one["dataset"]: one for one in result["outputs"]}
    changed = {name for name, one in found.items() if not one["identical"]}
    assert changed == {"sft_conversations", "sft_conversations_plain"}
    difference = found["sft_conversations"]["difference"]
    assert difference["column"] == "messages" and "Hello." in difference["after"]
    assert (
        [words for words in result["changes"] if words.startswith("parameter")]
        == [
            words
            for words in result["changes"]
            if words.startswith("parameter sac_augmentation.system_prompts.listener: ")
        ]
        != []
    )
    assert {Path(one["kept"]) for name, one in found.items() if name in changed} == set(left(project))


def test_a_removed_original_is_compared_by_its_recorded_digest(project) -> None:
    run = project.runs.names()[0]
    shutil.rmtree(project.data / f"05_model_input/sft_conversations_plain.parquet/{run}")
    assert verdicts(project, "--node", "mix_plain")["outputs"][0]["identical"]
    (one,) = verdicts(project, "--node", "mix_plain", "--params", HELLO)["outputs"]
    assert not one["identical"] and one["difference"] is None


def test_a_replay_uses_the_recorded_configuration_and_data(project) -> None:
    run = project.runs.names()[0]
    file = project.path / "conf/base/system_prompts/listener.txt"
    file.write_text("Hello.")
    project.run(["data_processing", "sac_augmentation"])
    options = ("--node", "sac_augmentation.mix_plain", "--node", "mix_with_blocks", "--yes", "--json")
    result = CliRunner().invoke(replay, [run, "--env", "test", *options], obj=project.metadata)
    assert result.exit_code == 0, result.output
    record = project.runs.load(json.loads(result.stdout)["replay"])
    assert record.reads["annotations"].version == run == record.selection.load_versions["annotations"]


def test_a_replay_reads_the_configuration_of_the_run(project) -> None:
    other = project.path / "other_conf"
    shutil.copytree(project.path / "conf", other)
    (other / "base/system_prompts/listener.txt").write_text("Hello.")
    node = [one.name for one in pipelines["sac_augmentation"].nodes if one.name.endswith("mix_plain")]
    with KedroSession.create(project_path=project.path, env="test", conf_source=str(other)) as session:
        session.run(pipeline_names=["sac_augmentation"], node_names=node)
    assert project.runs.load("latest").conf_source == "other_conf"
    result = verdicts(project)
    assert all(one["identical"] for one in result["outputs"])
    assert not [change for change in result["changes"] if "listener" in change]
    shutil.rmtree(other)
    gone = invoke(project, "--yes")
    assert gone.exit_code == 2 and f"its configuration, {other}, no longer exists" in gone.output


def test_a_replay_without_its_inputs_is_refused(project) -> None:
    runs = project.runs.names()
    assert invoke(project).exit_code == 2, "not confirmed"
    unknown = invoke(project, "--node", "mix", "--yes")
    assert unknown.exit_code == 2 and "has no node mix" in unknown.output
    nothing = CliRunner().invoke(replay, ["2020", "--env", "test"], obj=project.metadata)
    assert nothing.exit_code == 2 and "No run is called" in nothing.output
    shutil.rmtree(project.data / "03_primary/annotations.parquet" / runs[0])
    gone = invoke(project, "--node", "mix_plain", "--yes")
    assert gone.exit_code == 2 and f"version {runs[0]} of annotations" in gone.output
    (project.data / "01_raw/instructions/more.json").write_text("[]")
    changed = invoke(project, "--yes")
    assert changed.exit_code == 2 and "instructions has changed: more.json" in changed.output
    assert project.runs.names() == runs


def test_changed_parameters_are_overridden() -> None:
    then = {"a": {"b": 1, "c": [1, 2], "d": None}, "f": "${x}", "scratch": "s", "g": "(secret 12)"}
    now = {"a": {"b": 2, "c": [1, 2], "d": {"e": 1}, "new": 1}, "f": "y", "scratch": "t", "g": "z"}
    assert parameter_overrides(then, now, ("scratch",)) == {"a": {"b": 1, "d": None}, "f": "\\${x}"}
    assert merge_trees({"a": {"b": 1}, "c": 1}, {"a": {"d": 2}, "c": {"e": 1}}) == {
        "a": {"b": 1, "d": 2},
        "c": {"e": 1},
    }
