"""Launch a training in this process, or in worker processes of `accelerate launch` that end with this one.

Worker processes read their job from the folder of the training, and write the result there::

    job/job.json, rows.parquet   the arguments (`TrainingJob`)
    job/alive                    a pipe that this process holds open
    job/failed-0.txt             the traceback of a failed process
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

import sage_dialog
from sage_dialog.config import Launcher
from sage_dialog.training.job import TrainingJob
from sage_dialog.training.run_dir import TrainingResult, TrainingRunDir, open_run_dir

logger = logging.getLogger(__name__)

WORKER = "sage_dialog.training.worker"
"""The program of a worker process."""

IN_PROCESS = Launcher(config=None, num_processes=1, gradient_accumulation_steps=1)

ALIVE, FAILED = "alive", "failed-{}.txt"

_ERROR_LINES = 20
_TERMINATION_TIMEOUT_S = 15

_FIRST_FAILURE = re.compile(
    r"torch/distributed/elastic.*failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<rank>\d+)"
)
"""The launcher's line about the process that failed first; others fail because of it."""


class TrainingFailedError(RuntimeError):
    """A process of a training ended with an error, or was killed."""


def launch_training(
    job: TrainingJob, train: Callable[[TrainingJob, TrainingRunDir], None], scratch: Path
) -> TrainingResult:
    """Run a training job to its end, or resume it where an earlier run was killed.

    Args:
        train: runs the job in this process; worker processes find the function of their job in `worker`.

    Raises:
        ValueError: if the batch is not divisible, or the machine lacks what the launcher's config needs.
        TrainingFailedError: if a process fails; with its last lines.
    """
    launcher = job.launcher
    try:
        launcher.rows_at_once(job.config.batch_size)
    except ValueError as error:
        raise ValueError(f"{job.name}: {error}") from error
    config = None
    if launcher.config is not None:
        config = load_launcher_config(launcher.config)
        _check_machine(launcher, str(config["distributed_type"]))
        if config["distributed_type"] == "DEEPSPEED":
            config["deepspeed"] = version("deepspeed")
        if job.threads is None:
            job = replace(job, threads=max(1, (os.cpu_count() or 1) // launcher.num_processes))
    elif (gpus := torch.cuda.device_count()) > 1:
        raise ValueError(
            f"{job.name}: this machine shows {gpus} GPUs, and launcher.config is null, which trains on one; set "
            f"launcher.config=conf/accelerate/ddp.yaml and launcher.num_processes={gpus}, or CUDA_VISIBLE_DEVICES=0"
        )
    elif job.threads is not None:
        torch.set_num_threads(job.threads)
    inputs = job.fingerprint_inputs()
    inputs["launcher"] |= {"config": config}  # its content, wherever the file is
    with open_run_dir(scratch, job.name, inputs) as run_dir:
        if run_dir.trained.is_dir():
            result = run_dir.result()
            logger.info("%s was trained by an earlier run, in %s", job.name, run_dir.trained)
            return result
        if config is None:
            train(job, run_dir)
        else:
            gc.collect()
            torch.cuda.empty_cache()  # the workers need the GPU memory that this process holds for later use
            job.write(run_dir.job)
            launch_workers(launcher, job.threads or 1, job.name, run_dir)
        return run_dir.result()


def load_launcher_config(file: str) -> dict[str, Any]:
    """Return the content of a config file of `accelerate launch`.

    Raises:
        ValueError: if accelerate cannot read the file, or it is for several machines.
    """
    try:
        config = load_config_from_file(file)
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"launcher.config {file}: accelerate cannot read it: {error}") from error
    if config.num_machines > 1:
        raise ValueError(f"launcher.config {file}: num_machines is {config.num_machines}, but a run has one machine")
    return dict(content)


def _check_machine(launcher: Launcher, distributed_type: str) -> None:
    """Raise ValueError if the machine lacks what a config needs."""
    gpus, fault = torch.cuda.device_count(), None
    if not gpus and distributed_type in ("FSDP", "DEEPSPEED"):
        fault = "it needs GPUs, and this machine has none; conf/accelerate/ddp.yaml trains on CPUs too"
    elif gpus and launcher.num_processes > gpus:
        fault = f"launcher.num_processes is {launcher.num_processes}, but this machine has {gpus} GPUs"
    elif distributed_type == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        fault = "it needs DeepSpeed; pip install 'sage-dialog[deepspeed]'"
    if fault:
        raise ValueError(f"launcher.config {launcher.config}: {fault}")


def launch_workers(launcher: Launcher, threads: int, name: str, run_dir: TrainingRunDir) -> None:
    """Run the worker processes of a job to their end, and show their output."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launcher.config)),
        *("--num_processes", str(launcher.num_processes), "--num_machines", "1", "--main_process_port", "0"),
        *("--num_cpu_threads_per_process", str(threads), "--log_dir", str(run_dir.job)),
        *("--module", WORKER, str(run_dir.job)),
    ]
    package = str(Path(sage_dialog.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    log_start = run_dir.log.stat().st_size if run_dir.log.exists() else 0
    with _process(command, {**os.environ, "PYTHONPATH": path}) as process, _held_open(run_dir.job / ALIVE):
        output = threading.Thread(target=_copy_output, args=(process.stdout, run_dir.log), daemon=True)
        output.start()
        process.wait()
    output.join()
    if process.returncode or not run_dir.trained.is_dir():
        with run_dir.log.open("rb") as log:
            log.seek(log_start)
            reason, lines = _failure(log.read().decode(errors="replace"), run_dir.job)
        raise TrainingFailedError(
            f"{name}: {reason}, which ends its training. The whole output is in {run_dir.log}; the last lines:\n"
            + "\n".join(f"  {line}" for line in lines[-_ERROR_LINES:])
        )


@contextmanager
def _held_open(pipe: Path) -> Iterator[None]:
    """Hold a pipe open; its readers read the end when this process closes it, or is killed."""
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)  # opening it for writing only would wait for a reader
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _process(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process, and end it with the block."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which ends the others
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_TERMINATION_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _copy_output(output: IO[bytes], log: Path) -> None:
    """Copy the output of processes to the log and to stderr, progress bars as they move."""
    with output, log.open("ab", buffering=0) as file:
        while chunk := os.read(output.fileno(), 1 << 16):
            file.write(chunk)
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()


def _failure(output: str, job: Path) -> tuple[str, list[str]]:
    """Return which process failed first, and its output without that of the launcher."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in output.rstrip().split("\n")]
    for place, line in enumerate(lines):
        if found := _FIRST_FAILURE.search(line):
            rank, code = int(found["rank"]), int(found["code"])
            traceback = job / FAILED.format(rank)
            reason = f"was killed by signal {-code}" if code < 0 else "failed"
            return f"process {rank} {reason}", traceback.read_text().splitlines() if traceback.exists() else lines[
                :place
            ]
    return "accelerate launch failed", lines
