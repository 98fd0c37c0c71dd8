"""One process of a training in several: `accelerate launch … --module sage_dialog.training.worker JOB`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from pathlib import Path

from sage_dialog.training.launch import ALIVE, FAILED, work


def main(job: Path) -> None:
    _end_with_the_run(job / ALIVE)
    rank = int(os.environ.get("RANK", "0"))
    own = logging.INFO if rank == 0 else logging.ERROR  # what it says, the others would say again
    logging.basicConfig(format="%(asctime)s %(levelname)-8s %(message)s", datefmt="%H:%M:%S", level=logging.ERROR)
    logging.getLogger("sage_dialog").setLevel(own)
    try:
        work(job)
    except Exception:
        (job / FAILED.format(rank)).write_text(traceback.format_exc())
        raise
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _end_with_the_run(alive: Path) -> None:
    """End this process as soon as nobody holds the pipe open, whatever became of the one that did."""
    pipe = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)

    def watch() -> None:
        with contextlib.suppress(BlockingIOError):  # it is held, and nothing is written
            os.read(pipe, 1)
            os._exit(1)
        os.set_blocking(pipe, True)
        os.read(pipe, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
