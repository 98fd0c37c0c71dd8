"""A worker process of a training: `accelerate launch … --module sage_dialog.training.worker JOB_FOLDER`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from pathlib import Path

import torch

from sage_dialog.training.dpo import train_dpo
from sage_dialog.training.job import TrainingJob
from sage_dialog.training.launch import ALIVE, FAILED
from sage_dialog.training.run_dir import TrainingRunDir
from sage_dialog.training.sft import train_sft

TRAININGS = {"sft": train_sft, "dpo": train_dpo}


def main(folder: Path) -> None:
    _exit_with_parent(folder / ALIVE)
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(format="%(asctime)s %(levelname)-8s %(message)s", datefmt="%H:%M:%S", level=logging.ERROR)
    logging.getLogger("sage_dialog").setLevel(logging.INFO if rank == 0 else logging.ERROR)
    try:
        run_job(folder)
    except Exception:
        (folder / FAILED.format(rank)).write_text(traceback.format_exc())
        raise
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run_job(folder: Path) -> None:
    """Run the job in a folder, as one of its processes."""
    job = TrainingJob.read(folder)
    TRAININGS[job.kind](job, TrainingRunDir(folder.parent))


def _exit_with_parent(alive: Path) -> None:
    """Exit as soon as no process holds the pipe open for writing, however its holder ended."""
    pipe = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)

    def watch() -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is held and empty
            os.read(pipe, 1)
            os._exit(1)
        os.set_blocking(pipe, True)
        os.read(pipe, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
