"""A killed and resumed training gives the same adapter, to the byte, and the same tables."""

from __future__ import annotations

import multiprocessing
import random
import signal

import killed_training
import pandas as pd
import pytest
import trl

from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.core.policies import Policy
from sage_dialog.training import callbacks
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.run_dir import TrainingResult
from sage_dialog.training.sft import fine_tune

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
        process.join(300)
        return process.exitcode

    return start


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("sft", 2), ("refinement", 1), ("dpo", 1)])
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *(("early stopping", 5), ("early stopping", 11)),  # before the best weights, and after them
        *(("full fine-tuning", 2), ("full preference tuning", 2)),
    ],
)
def test_a_training_that_fails_at_a_step_resumes_to_the_same_weights(
    kind: str, step: int, base: Policy, conversations, held_out_losses, monkeypatch, tmp_path
) -> None:
    """Early stopping resumes with the best weights so far, full fine-tuning with all weights."""
    monkeypatch.setattr(callbacks, "MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(callbacks, "MAX_TIME_SHARE", float("inf"))
    trainer = trl.DPOTrainer if kind == "full preference tuning" else trl.SFTTrainer
    start, short = None, FineTuning.from_base(learning_rate=1e-2, batch_size=2, max_steps=3, max_length=200, epochs=1.0)
    if kind == "early stopping":
        held_out_losses([5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 1.0, 1.0, 1.0, 1.0])
    else:
        start = fine_tune("sage_w", base, None, conversations, short, None, 0, tmp_path, True, threads=1).policy

    def train(scratch: str) -> TrainingResult:
        if kind == "full preference tuning":
            config, pairs = Preference.from_base(learning_rate=1e-2, batch_size=2), killed_training.pairs()[:6]
            return preference_tune("sage_x", base, start, pairs, config, 0, tmp_path / scratch, threads=1)
        config = short.model_copy(update={"max_steps": 20, "held_out": 0.34, "patience": 3}) if start is None else short
        lora = LoraSettings.from_base(r=4, alpha=8) if start is None else None
        return fine_tune("sage_x", base, start, conversations, config, lora, 0, tmp_path / scratch, True, threads=1)

    original = trainer.training_step

    def fail(trainer, *args, **kwargs):
        if trainer.state.global_step == step:
            raise InterruptedError
        return original(trainer, *args, **kwargs)

    whole = train("whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(trainer, "training_step", fail)
        train("interrupted")
    assert list(tmp_path.glob(f"interrupted/training/sage_x/*/step-{step:08d}"))
    resumed = train("interrupted")
    assert resumed.policy.revision() == whole.policy.revision()
    assert resumed.log.equals(whole.log)
