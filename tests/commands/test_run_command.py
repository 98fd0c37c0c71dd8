"""`kedro run`: what a user can mend is one sentence with exit code 1, and no traceback."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from sage_dialog.commands.run import run
from sage_dialog.commands.runs import runs
from sage_dialog.commands.status import status
from sage_dialog.core import atomic_files
from sage_dialog.hooks.errors import with_environment
from sage_dialog.lineage.run_folder import RunFolder


def error(*options: str) -> str:
    """The message of a refused or stopped run."""
    result = CliRunner().invoke(run, options)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.output
    return result.stderr.partition("Error: ")[2]


@pytest.fixture
def empty(configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without data as the working directory."""
    (tmp_path / "conf").symlink_to(configured / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--pipelines", "sft,evaluatoin"],
            "No pipeline is called 'evaluatoin', did you mean evaluation? ",
        ),
        (["--pipeline", "nothing"], "No pipeline is called 'nothing'. Registered: ablations, base, data_processing, "),
        (
            ["--pipelines", "sft", "--nodes", "train_sage_1"],
            "Nothing was run. sft: Pipeline does not contain nodes named ['train_sage_1'].",
        ),
        (
            ["--to-outputs", "sage_9"],
            "Nothing was run. All stages: Pipeline does not contain datasets named",
        ),
        (
            ["--tags", "gpu"],
            "Nothing was run. All stages: Pipeline contains no nodes after applying",
        ),
        (["--env", "tets"], "No environment is called 'tets', did you mean test? In conf: base, mlflow, openai, "),
        (["--runner", "Sequential"], "No runner is called 'Sequential', did you mean SequentialRunner?"),
        (["--load-versions", "dialogs:2026"], "Nothing was run. 'load_versions' keys [dialogs] are not found"),
    ],
)
def test_an_unknown_name_is_one_sentence(empty: Path, options: list[str], message: str) -> None:
    assert error(*options).startswith(message)
    assert not (empty / "data").exists()


@pytest.mark.parametrize("command", ["run", "runs", "status"])
def test_a_data_folder_on_an_object_store_is_refused(
    empty: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("SAGE_DATA", "s3://bucket/sage")
    commands = {"run": run, "runs": runs, "status": status}
    result = CliRunner().invoke(commands[command], [], obj=SimpleNamespace(project_path=empty))
    assert result.exit_code in (1, 2) and "The data folder (SAGE_DATA) is s3://bucket/sage" in result.stderr
    assert "raw data and single tables may be on an object store" in result.stderr
    assert [path.name for path in empty.iterdir()] == ["conf"]


def test_hints_keep_the_environment(empty: Path) -> None:
    message = error("--env", "test", "--pipelines", "data_processing")
    assert message.count("`kedro run --env test --pipelines microworld`") == message.count("`kedro run") == 2


def test_commands_in_a_message_name_the_environment_once() -> None:
    message = "`kedro sage refresh`, `kedro run --pipelines sft`, kedro run"
    expected = "`kedro sage refresh --env test`, `kedro run --env test --pipelines sft`, kedro run"
    assert with_environment(message, "test") == with_environment(expected, "test") == expected
    assert with_environment(message, None) == message


def test_a_missing_base_names_the_command_that_makes_only_it(empty: Path) -> None:
    lines = error("--pipelines", "sage_1").splitlines()
    (line,) = (line for line in lines if line.startswith("  sage_0:"))
    assert line.endswith("; `kedro run --pipelines microworld --to-outputs sage_0` makes it.")


def test_a_missing_extra_is_named_before_anything_runs(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    message = error("--env", "spark", "--pipelines", "data_processing")
    assert message.startswith("data_processing.executor is spark, and pyspark is not installed; the run was")
    assert "pip install '.[spark]'" in message


def run_small(project, *options: str) -> Result:
    return CliRunner().invoke(run, ["--env", "test", "--pipelines", "data_processing", *options])


def test_only_missing_outputs_says_that_none_is_missing(
    project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(project.path)
    caplog.set_level("INFO", logger="sage_dialog")
    runs = project.runs.names()
    assert run_small(project, "--only-missing-outputs").exit_code == 0
    assert "Nothing to do: all 8 outputs exist. `kedro sage status --env test` shows which are stale." in (
        caplog.messages
    )
    assert project.runs.names() == runs


def test_a_run_of_missing_outputs_without_their_inputs_is_not_started(empty: Path) -> None:
    message = error("--env", "test", "--pipelines", "data_processing", "--only-missing-outputs")
    assert message.startswith("Missing inputs; the run was not started:") and "empathetic_dialogues: " in message


def test_inputs_of_finished_nodes_may_be_away(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    raw = project.data / "01_raw/empathetic_dialogues"
    raw.rename(raw.with_name("away"))
    try:
        assert run_small(project, "--only-missing-outputs").exit_code == 0
    finally:
        raw.with_name("away").rename(raw)


def refuse_writes(monkeypatch: pytest.MonkeyPatch, number: int, beyond: str) -> None:
    """Make every write that becomes a file at a path with `beyond` in it fail with an error number."""
    flush = atomic_files._flush

    def fail(path: Path) -> None:
        if beyond in str(path):
            raise OSError(number, os.strerror(number), str(path))
        flush(path)

    monkeypatch.setattr(atomic_files, "_flush", fail)


def test_a_full_disk_stops_the_run_and_the_next_one_goes_on(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.path)
    with monkeypatch.context() as patch:
        refuse_writes(patch, errno.ENOSPC, "situations.parquet")
        message = error("--env", "test", "--pipelines", "data_processing")
    assert message.startswith("No space is left on the disk for ") and "situations.parquet" in message
    assert message.endswith("Then run the same command again: finished work is kept.\n")
    assert RunFolder(project.data / "runs").load("latest").status == "failed"
    assert run_small(project).exit_code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(empty: Path) -> None:
    (empty / "data").mkdir(mode=0o500)
    message = error("--env", "test", "--pipelines", "microworld")
    assert "data" in message and "permission denied. Change its permissions, or set SAGE_DATA" in message


def test_a_read_only_disk_is_named(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(folder: RunFolder, record: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder.path))

    monkeypatch.setattr(RunFolder, "begin", begin)
    message = error("--env", "test", "--pipelines", "microworld")
    assert message.startswith(f"{empty}/data/test/runs cannot be written: its file system is read-only. Change its")


def test_a_table_of_another_version_is_named_with_what_makes_it(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_DATA", str(empty / "data"))
    file = empty / "data/08_reporting/win_rates.parquet/2026-01-01T00.00.00.000Z/win_rates.parquet"
    file.parent.mkdir(parents=True)
    pd.DataFrame({"policy_a": ["sage_0"], "odds": [1.0]}).to_parquet(file)
    message = error("--pipelines", "evaluation", "--nodes", "evaluation.plan_situations")
    assert message.startswith("win_rates is no table that this version of the project reads (")
    assert "judge: expected one column of type string, found none" in message and "odds: no column of" in message
    assert "`kedro run --pipelines evaluation`" in message
