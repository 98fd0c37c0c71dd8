"""Killed at any moment and started again, a whole run ends, and its tables and adapters are the same to the byte."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
from pathlib import Path

import killed_runs
import pytest

KILLS = 20


@pytest.fixture(scope="module")
def start_process():
    """Processes that have imported what takes seconds to import."""
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
        process.join(240)
        return process.exitcode

    return start


def test_killed_at_random_moments_a_run_ends_with_the_same_bytes(start_process, tmp_path: Path) -> None:
    world, whole, killed = (tmp_path / name for name in ("world", "whole", "killed"))
    world.mkdir()
    assert start_process("write_world", world) == 0
    for folder in (whole, killed):
        shutil.copytree(world, folder)
    assert start_process("run", whole, None) == 0, (whole / "log").read_text()[-2000:]
    expected, events = killed_runs.made(whole), int((whole / "events").read_text())
    assert events > 300 and {
        "sage_dpo/sage_dpo/adapter_model.safetensors",
        "dpo_pairs.parquet/dpo_pairs.parquet",
    } <= set(expected)
    draw, kills, moments = random.Random("whole runs"), 0, []
    while kills < KILLS:  # a run that finds work of an earlier one has fewer moments, and may end before its own comes
        moments.append(draw.randrange(events * 3 // 4))
        ended = start_process("run", killed, moments[-1])
        assert ended in (0, -signal.SIGKILL), (moments, (killed / "log").read_text()[-2000:])
        assert ended or killed_runs.made(killed) == expected, moments
        kills += ended != 0
    assert start_process("run", killed, None) == 0, (moments, (killed / "log").read_text()[-2000:])
    assert killed_runs.made(killed) == expected, moments
