"""A killed and resumed training gives the same adapter, to the byte, and the same tables."""

from __future__ import annotations

import multiprocessing
import random
import signal

import killed_training
import pandas as pd
import pytest

from sage_dialog.core.policies import Policy

FILES = ("adapter_model.safetensors", "adapter_config.json", "sage_policy.json")


@pytest.fixture(scope="module")
def start_process():
    """Return a function that trains in a new process, forked from one with the slow imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "pyarrow.parquet", "killed_training"]
    )

    def start(*arguments: object) -> int | None:
        process = context.Process(target=killed_training.run, args=arguments)
        process.start()
        process.join(120)
        return process.exitcode

    return start


@pytest.mark.parametrize(("kind", "kills"), [("sft", 3), ("refinement", 1), ("dpo", 3)])
def test_a_killed_and_resumed_training_gives_the_same_bytes(
    kind: str, kills: int, base: Policy, start_process, tmp_path
) -> None:
    start = killed_training.start_policy(kind, base, tmp_path / "start")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    assert start_process(kind, base, start, whole, None) == 0
    events = int((whole / "events").read_text())
    assert events > 100
    draw = random.Random(f"{kind} 6")
    moments = [draw.randrange(events // 2 // kills, events * 3 // 4 // kills) for _ in range(kills)]  # to epoch two
    for moment in moments:
        assert start_process(kind, base, start, killed, moment) == -signal.SIGKILL, moments
        assert not (killed / "data").exists()
    assert start_process(kind, base, start, killed, None) == 0, moments
    assert "resumes from" in (killed / "log").read_text(), "it started from scratch"
    assert int((killed / "events").read_text()) < events
    assert "Could not find a config file" not in (whole / "errors").read_text(), "a checkpoint looked on a hub"
    for name in FILES:
        assert (whole / "data" / name).read_bytes() == (killed / "data" / name).read_bytes(), (name, moments)
    for table in ("log.parquet", "training_rejects.parquet"):
        assert pd.read_parquet(whole / table).equals(pd.read_parquet(killed / table)), (table, moments)
    assert len(pd.read_parquet(whole / "log.parquet")) >= 10
    assert list((killed / "scratch/training").iterdir()) == [], "the catalog removes it"


def test_a_result_that_the_catalog_has_not_saved_is_not_trained_again(base, start_process, tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    assert start_process("sft", base, None, whole, None) == 0
    events = int((whole / "events").read_text())
    assert start_process("sft", base, None, killed, events - 12) == -signal.SIGKILL
    (trained,) = (killed / "scratch/training/sage_t").glob("*/trained")
    assert start_process("sft", base, None, killed, None) == 0
    first, _, second = (killed / "log").read_text().partition("sage_t was trained by an earlier run")
    assert "steps" in first and "steps" not in second, "the second run trained"
    assert not trained.exists()
