"""Worker processes with test behaviour, selected by the environment variable `LAUNCHED`."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sage_dialog.config import Launcher
from sage_dialog.core.policies import CARD, Policy
from sage_dialog.training import launch
from sage_dialog.training.run_dir import TrainingRunDir

PROJECT = Path(__file__).parents[2]
TWO = Launcher.from_base(config=str(PROJECT / "conf/accelerate/ddp.yaml"), num_processes=2)


def train(job: Path) -> None:
    """Train with a checkpoint at each step; the first process kills itself at rename `KILL_AT` in scratch."""
    from sage_dialog.training import callbacks

    callbacks.MIN_INTERVAL_S, callbacks.MAX_TIME_SHARE = 0.0, float("inf")
    count, kill_at = itertools.count(), int(os.environ.get("KILL_AT", "-1"))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(arguments[0]).startswith(str(job.parent)) and next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["RANK"] == "0":
        sys.addaudithook(watch)
    run_job(job)


def idle(job: Path) -> None:
    """Write the process ids, and wait."""
    pids = job.parent / f".{os.environ['RANK']}"
    pids.write_text(f"{os.getpid()} {os.getppid()}")
    pids.rename(job.parent / f"rank-{os.environ['RANK']}")
    time.sleep(300)


def fail(job: Path) -> None:
    print("\rstep 1\rstep 2", file=sys.stderr)
    if os.environ["RANK"] == "1":
        raise ValueError("the rows are of no use")
    time.sleep(300)


def hub_form(base: Policy, folder: Path) -> Policy:
    """Return a copy of a base as a hub's cache holds it: at a commit, without a card in its folder."""
    shutil.copytree(base.path, folder, ignore=shutil.ignore_patterns(CARD))
    return Policy(folder.resolve(), replace(base.card, base="someone/base", base_revision="0123456789" * 4))


def start(folder: Path) -> None:
    """Launch two worker processes."""
    (folder / "job").mkdir(parents=True)
    launch.WORKER = "launched"
    launch.launch_workers(TWO, 1, "sage_t", TrainingRunDir(folder))


def start_run(folder: Path, what: str, python_path: str) -> None:
    """Launch two worker processes from a process of their own, with its errors in `folder/stderr`."""
    os.environ |= {"LAUNCHED": what, "PYTHONPATH": python_path}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    sys.stderr = (folder / "stderr").open("w")
    start(folder)


if __name__ == "__main__":
    if os.environ["LAUNCHED"] != "train":  # nothing is trained, and TRL takes seconds to import
        sys.modules["sage_dialog.training.sft"] = SimpleNamespace(train_sft=None)  # type: ignore[assignment]
        sys.modules["sage_dialog.training.dpo"] = SimpleNamespace(train_dpo=None)  # type: ignore[assignment]
    from sage_dialog.training import worker

    run_job = worker.run_job
    worker.run_job = {"train": train, "idle": idle, "fail": fail}[os.environ["LAUNCHED"]]
    worker.main(Path(sys.argv[1]))
