"""`kedro sage iterate`: it stops by the verdicts, goes on after a kill, and plays no situation of the test split."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from pathlib import Path

import iterating
import pandas as pd
import pytest
from filelock import FileLock
from iterating import iterate, iterate_and_kill, made, prepare

TITLE = "Iterations, judged by scripted on the valid split"
SPLITS = "02_intermediate/situations.parquet"


@pytest.fixture
def project(project):
    prepare(project.path)
    iterating.Writer.played.clear()
    return project


def table(project, name: str) -> pd.DataFrame:
    (path,) = sorted(project.data.glob(f"0*/{name}.parquet/*/*.parquet"))[-1:]
    return pd.read_parquet(path)


def nodes_of_runs(project, before: list[str]) -> list[str]:
    new = sorted(set(project.runs.names()) - set(before))
    return [node.rpartition(".")[2] for run in new for node in project.runs.load(run).nodes]


@pytest.mark.slow
def test_it_stops_at_the_first_policy_that_is_no_better_and_does_nothing_twice(project) -> None:
    before = project.runs.names()
    result = iterate(project.path, "iterations=3")
    assert result.exit_code == 0, result.output
    verdicts = table(project, "iteration_verdicts")
    assert verdicts[["policy_b", "wins", "losses", "verdict"]].values.tolist() == [
        ["sage_2", 8, 0, "better"],
        ["sage_3", 0, 8, "no better"],
    ]
    assert not list(project.data.glob("06_models/sage_4/*")), "it went on"
    assert "At most 3 iterations, judged by scripted on 8 situations" in result.output
    assert (
        "set `iterations: 2` in conf/test/globals.yml; then `kedro run --env test --pipelines preference`"
        in result.output
    )
    assert "`iterations: 1` starts from sage_2" in result.output
    assert nodes_of_runs(project, before) == [
        *("search", "rollout_sage_1", "refine", "rollout_sage_2", "judge_1", "decide_1"),
        *("search", "refine", "rollout_sage_3", "judge_2", "decide_2"),
    ]

    situations, opened = table(project, "situations"), {text for _, text in iterating.Writer.played}
    of_split = {split: set(rows["text"]) & opened for split, rows in situations.groupby("split")}
    assert of_split["test"] == set() and len(of_split["valid"]) == 8 and len(of_split["train"]) >= 3

    before = project.runs.names()
    again = iterate(project.path, "iterations=3")
    assert again.exit_code == 0 and project.runs.names() == before
    assert again.output.partition(TITLE)[2] == result.output.partition(TITLE)[2] != ""

    # A stricter level: the verdict alone is drawn anew, and ends self-play.
    strict = iterate(project.path, "iterations=3", "stop_rule.level=0.001")
    assert nodes_of_runs(project, before) == ["decide_1"] and "Undecided: 8 situations" in strict.output
    assert table(project, "iteration_verdicts")["verdict"].tolist() == ["undecided"]


@pytest.mark.slow
def test_a_stale_iteration_is_made_again_and_a_better_last_one_says_how_to_go_on(project, monkeypatch) -> None:
    monkeypatch.setitem(iterating.STRENGTHS, "sage_3", 4)
    first = iterate(project.path)
    assert "sage_3 is better than sage_2, and is the last that `iterations: 2`" in first.output, first.output
    before, was = project.runs.names(), made(project.path)
    result = iterate(project.path, "self_play.replay_share=0.9")
    assert result.exit_code == 0, result.output
    assert nodes_of_runs(project, before) == [
        *("search", "refine", "rollout_sage_2"),
        *("search", "refine", "rollout_sage_3"),
    ]
    now = made(project.path)
    changed = {name.partition("/")[0] for name in now if now[name] != was[name]}
    assert changed == {"sage_2", "sage_3"}, "the scripted engine's replies are the same, so what follows is not redone"


def test_a_second_command_is_refused_and_so_are_a_wrong_judge_and_an_empty_split(project) -> None:
    with FileLock(project.data / "runs/.iterate.lock"):
        result = iterate(project.path)
    assert result.exit_code == 2 and "Another `kedro sage iterate` runs on this data folder" in result.output
    result = iterate(project.path, "stop_rule.judge=nobody")
    assert result.exit_code == 2 and "no judge has this name; there are scripted" in result.output
    path = sorted(project.data.glob(f"{SPLITS}/*/*.parquet"))[-1]
    pd.read_parquet(path, dtype_backend="pyarrow").query("split != 'valid'").to_parquet(path)
    result = iterate(project.path)
    assert result.exit_code == 2 and "no situation of the valid split" in result.output
    assert not list(project.data.glob("06_models/sage_2/*"))


@pytest.mark.slow
def test_a_killed_command_ends_with_the_same_bytes(project, configured: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(project.path, killed, ignore=shutil.ignore_patterns("killed"))
    assert iterate(project.path).exit_code == 0
    process = multiprocessing.get_context("spawn").Process(
        target=iterate_and_kill, args=(configured, killed, 400), daemon=True
    )
    process.start()
    process.join(150)
    assert process.exitcode == -signal.SIGKILL, (killed / "log").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGE_DATA", str(killed / "data"))
        result = iterate(killed)
    assert result.exit_code == 0, result.output
    assert made(killed) == made(project.path)
