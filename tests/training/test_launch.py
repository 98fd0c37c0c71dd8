"""Training in several processes: the same policy, errors of one process, no processes left."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import killed_training
import launched
import psutil
import pytest

from sage_dialog import schemas
from sage_dialog.config import FineTuning, Launcher, LoraSettings, Preference
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.training import launch
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.launch import TrainingFailedError
from sage_dialog.training.sft import fine_tune

pytestmark = pytest.mark.slow

TWO = launched.TWO
LORA = LoraSettings.from_base(r=4, alpha=8, target_modules=("q_proj", "v_proj"))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch):
    """Set the behaviour of the worker processes."""
    monkeypatch.setattr(launch, "WORKER", "launched")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    def does(what: str, **more: str) -> None:
        for name, value in {"LAUNCHED": what, **more}.items():
            monkeypatch.setenv(name, value)

    return does


def rows(count: int) -> DataFrame:
    table = to_rows(killed_training.conversations())[:5]
    numbered = [{**table[n % 5], "conversation_id": f"c{n}"} for n in range(count)]
    for n, row in enumerate(numbered):
        row["messages"] = [{"role": "user", "content": "Hm." * n}, row["messages"][1]]
    numbered[7]["messages"][0]["content"] *= 80  # too long
    return from_rows(numbered, schemas.SFT_CONVERSATIONS)


def test_two_processes_resume_after_a_kill_and_give_the_curve_of_one(
    base: Policy, tmp_path: Path, worker, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "sage_dialog")
    config = FineTuning.from_base(learning_rate=1e-2, batch_size=4, epochs=2.0, max_length=200, group_by_length=True)

    def tuned(where: str, launcher: Launcher = launch.IN_PROCESS):
        return fine_tune("sage_t", base, None, rows(13), config, LORA, 0, tmp_path / where, True, 1, launcher)

    one, halves = tuned("one"), tuned("halves", Launcher.from_base(gradient_accumulation_steps=2))
    worker("train", KILL_AT="28")
    with pytest.raises(TrainingFailedError, match="sage_t: process 0 was killed by signal 9, which ends its training"):
        tuned("two", TWO)
    (place,) = (tmp_path / "two/training/sage_t").iterdir()
    assert list(place.glob("step-*")) and not (place / "trained").exists()
    capfd.readouterr()
    worker("train", KILL_AT="-1")
    two = tuned("two", TWO)
    assert "resumes from" in (place / "log").read_text(), "it started from scratch"
    output = capfd.readouterr().err
    assert output.count(" of 6 steps, ") == 1 and "in the largest of 2 processes" in output
    assert output.count("1 of 13 conversations exceed") == 1 and "loss=" in output
    assert two.policy.revision() == halves.policy.revision(), "gradient accumulation adds up the same"
    assert two.log["loss"].to_list() == pytest.approx(one.log["loss"].to_list(), abs=1e-3)
    for column in ("step", "epoch", "tokens", "split", "learning_rate"):
        assert two.log[column].to_list() == one.log[column].to_list(), column
    assert two.training_rejects.equals(one.training_rejects) and len(two.training_rejects) == 1
    assert tuned("two", TWO).policy == two.policy, "it was trained by an earlier run"
    two.policy.forget()  # type: ignore[attr-defined]
    assert list((tmp_path / "two/training").iterdir()) == []


def test_preference_tuning_in_two_processes_equals_one_on_a_base_from_a_hub(
    base: Policy, tmp_path: Path, worker
) -> None:
    base = launched.hub_form(base, tmp_path / "base")
    start = killed_training.start_policy("dpo", base, tmp_path / "start")
    assert start is not None
    pairs = killed_training.pairs()[:12]
    config = Preference.from_base(learning_rate=1e-2, batch_size=4, epochs=2.0, max_length=200)
    one = preference_tune("sage_t", base, start, pairs, config, 0, tmp_path / "one", 1)
    worker("train")
    two = preference_tune("sage_t", base, start, pairs, config, 0, tmp_path / "two", 1, TWO)
    for column in ("loss", "preference_accuracy", "preference_margin"):
        assert two.log[column].to_list() == pytest.approx(one.log[column].to_list(), abs=1e-3), column
    assert two.log["tokens"].to_list() == one.log["tokens"].to_list()
    assert two.policy.card == one.policy.card


def test_the_error_of_one_process_is_the_error_of_the_training(tmp_path: Path, worker) -> None:
    worker("fail")
    with pytest.raises(TrainingFailedError) as failure:
        launched.start(tmp_path / "place")
    lines = str(failure.value).splitlines()
    assert (
        lines[0].startswith("sage_t: process 1 failed, which ends its training.")
        and str(tmp_path / "place/log") in lines[0]
    )
    assert lines[-1] == "  ValueError: the rows are of no use"


@pytest.fixture
def start_run(tmp_path: Path):
    """A function that starts a process which launches idle workers. These processes share the imports of torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launched"])

    def start() -> ForkServerProcess:
        run = context.Process(target=launched.start_run, args=(tmp_path, "idle", os.pathsep.join(sys.path)))
        run.start()
        return run

    return start


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_run(how: signal.Signals, tmp_path: Path, start_run) -> None:
    run = start_run()
    ranks = processes_of(tmp_path)
    assert run.pid is not None
    os.kill(run.pid, how)
    run.join(300)
    assert run.exitcode not in (0, None)
    assert gone(ranks)


def test_a_killed_worker_ends_the_others(tmp_path: Path, start_run) -> None:
    run = start_run()
    ranks = processes_of(tmp_path)
    os.kill(ranks[1], signal.SIGKILL)
    run.join(300)
    output = (tmp_path / "stderr").read_text()
    assert run.exitcode == 1 and "sage_t: process 1 was killed by signal 9, which ends its training" in output
    assert gone(ranks)


def processes_of(place: Path) -> list[int]:
    """Wait for both ranks, and return their ids and the launcher's."""
    files = [place / "rank-0", place / "rank-1"]
    until = time.monotonic() + 300
    while not all(file.exists() for file in files):
        assert time.monotonic() < until, "the processes did not start"
        time.sleep(0.1)
    (first, parent), (second, _) = (map(int, file.read_text().split()) for file in files)
    return [first, second, parent]


def gone(processes: list[int]) -> bool:
    until = time.monotonic() + 240
    while time.monotonic() < until:
        left = [pid for pid in processes if psutil.pid_exists(pid)]
        if all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in left):
            return True
        time.sleep(0.1)
    return False
