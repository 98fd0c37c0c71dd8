"""A run killed at random moments and restarted completes with the same bytes of tables and adapters."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
from pathlib import Path

import killed_runs
import pytest

pytestmark = pytest.mark.slow

KILLS = 8


@pytest.fixture(scope="module")
def start_process():
    """A function that runs a process in which slow imports are already loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "trl.trainer.sft_trainer",
            "trl.trainer.dpo_trainer",
            "peft",
            "pyarrow.parquet",
            "pandas",
            "matplotlib.pyplot",
            "kedro.framework.session",
            "kedro.framework.startup",
            "nltk.sentiment.vader",
            "killed_runs_begun",
            "block_writers",
        ]
    )

    def start(*arguments: object) -> int | None:
        process = context.Process(target=getattr(killed_runs, str(arguments[0])), args=arguments[1:])
        process.start()
        process.join(400)
        return process.exitcode

    return start


def test_a_run_killed_at_random_moments_completes_with_the_same_bytes(start_process, tmp_path: Path) -> None:
    world, uninterrupted, killed = (tmp_path / name for name in ("world", "uninterrupted", "killed"))
    world.mkdir()
    assert start_process("write_world", world) == 0
    for folder in (uninterrupted, killed):
        shutil.copytree(world, folder)
    assert start_process("run", uninterrupted, None) == 0, (uninterrupted / "log").read_text()[-2000:]
    expected, events = killed_runs.made(uninterrupted), int((uninterrupted / "events").read_text())
    assert events > 300 and {
        "sage_dpo/sage_dpo/adapter_model.safetensors",
        "dpo_pairs.parquet/dpo_pairs.parquet",
    } <= set(expected)
    draw, kills, moments = random.Random("whole runs"), 0, []
    while kills < KILLS:  # a restarted run has fewer events, and may complete before its moment
        moments.append(draw.randrange(events * 3 // 4))
        exit_code = start_process("run", killed, moments[-1])
        assert exit_code in (0, -signal.SIGKILL), (moments, (killed / "log").read_text()[-2000:])
        assert exit_code or killed_runs.made(killed) == expected, moments
        kills += exit_code != 0
    assert start_process("run", killed, None) == 0, (moments, (killed / "log").read_text()[-2000:])
    assert killed_runs.made(killed) == expected, moments


def test_goal_demo_killed_once_completes_with_the_same_bytes(start_process, tmp_path: Path) -> None:
    uninterrupted, killed = (tmp_path / name for name in ("uninterrupted", "killed"))
    for folder in (uninterrupted, killed):
        killed_runs.write_configuration(folder)
    assert start_process("run_goals", uninterrupted, None) == 0, (uninterrupted / "log").read_text()[-2000:]
    expected, events = killed_runs.made(uninterrupted), int((uninterrupted / "events").read_text())
    assert {"goal_critic/goal_critic/heads.safetensors", "advantages.parquet/advantages.parquet"} <= set(expected)
    assert start_process("run_goals", killed, events // 2) == -signal.SIGKILL
    assert killed_runs.made(killed) != expected
    assert start_process("run_goals", killed, None) == 0, (killed / "log").read_text()[-2000:]
    assert killed_runs.made(killed) == expected
