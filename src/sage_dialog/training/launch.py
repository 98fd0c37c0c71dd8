"""Where a training runs: in this process, or in several that `accelerate launch` starts and that end with this one.

The processes are told by files in the training's run_dir, and leave what they trained there::

    job/job.json     the arguments; of a policy where it lies, of a table which file
    job/*.arrow      tables
    job/alive        a pipe that this process holds open while it waits for them
    job/failed-0.txt the traceback of a process that failed
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

import sage_dialog
from sage_dialog import config as parameters
from sage_dialog.config import Config, Launcher
from sage_dialog.core.policies import Policy, identity
from sage_dialog.training.checkpoints import Trained, TrainingRunDir, run_dir, table_digest

WORKER = "sage_dialog.training.worker"

TRAININGS = {"sft": "sage_dialog.training.sft", "dpo": "sage_dialog.training.dpo"}
"""Modules whose `train_at` trains."""

IN_PROCESS = Launcher(config=None, num_processes=1, gradient_accumulation_steps=1)

JOB, ALIVE, FAILED = "job.json", "alive", "failed-{}.txt"

_SHOWN = 20
"""Lines of a failure."""

_FAILED_FIRST = re.compile(r"torch/distributed/elastic.*failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<rank>\d+)")
"""What the launcher says of the process that failed first; others may have failed for want of it."""

_PATIENCE_S = 15
"""Seconds that a launcher may take to end once its processes have."""


class TrainingFailedError(RuntimeError):
    """One of a training's processes ended with an error, or was killed."""


def trained_by(
    launcher: Launcher, kind: str, scratch: Path, name: str, threads: int | None, told: Mapping[str, Any]
) -> Trained:
    """Train `name` in this process or in others; killed and called again, it goes on.

    Args:
        kind: one of TRAININGS.
        threads: of each process; null takes all cores, which several processes share among them.
        told: the other arguments of its `train_at`: policies, tables, parameters (their `batch_size` among them) and what
            JSON can write. With the launcher they decide the weights.

    Raises:
        ValueError: if a batch cannot be dealt out evenly, or the launcher's config is not fit for it.
        TrainingFailedError: if a process fails; with its last lines.
    """
    import torch

    try:
        launcher.rows_at_once(told["config"].batch_size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    config = None
    if launcher.config is not None:
        config = configuration(launcher.config)
        _fits_machine(launcher, str(config["distributed_type"]))
        if config["distributed_type"] == "DEEPSPEED":
            config["deepspeed"] = version("deepspeed")
    if config is not None and threads is None:
        threads = max(1, (os.cpu_count() or 1) // launcher.num_processes)
    elif threads is not None:
        torch.set_num_threads(threads)
    fingerprint_inputs = {
        "training": [kind, name],
        "launcher": {**launcher.model_dump(), "config": config},  # what it says, wherever it lies
        "threads": threads,
        **{key: _identified(value) for key, value in told.items()},
    }
    with run_dir(scratch, name, fingerprint_inputs) as place:
        if earlier := place.earlier():
            return earlier
        if config is None:
            return _train_at(kind)(place, launcher, name, threads, **told)
        gc.collect()
        torch.cuda.empty_cache()  # what this process holds of a GPU for later use, the others need now
        _write(place.job, {"kind": kind, "name": name, "threads": threads, "launcher": launcher, **told})
        _launch(launcher, threads or 1, name, place)
        return place.trained()


def configuration(file: str) -> dict[str, Any]:
    """What a config file of `accelerate launch` says.

    Raises:
        ValueError: if there is none, accelerate does not understand it, or it is for several machines.
    """
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        read = load_config_from_file(file)
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"launcher.config {file}: accelerate cannot read it: {error}") from error
    if read.num_machines > 1:
        raise ValueError(f"launcher.config {file}: num_machines is {read.num_machines}, and a run has one machine")
    return dict(content)


def _fits_machine(launcher: Launcher, distributed_type: str) -> None:
    """Raises ValueError where the machine lacks what a config needs."""
    import torch

    gpus, lacks = torch.cuda.device_count(), None
    if not gpus and distributed_type in ("FSDP", "DEEPSPEED"):
        lacks = "it needs GPUs, and there is none here; conf/accelerate/ddp.yaml trains on CPUs too"
    elif gpus and launcher.num_processes > gpus:
        lacks = f"launcher.num_processes is {launcher.num_processes}, and there are {gpus} GPUs here"
    elif distributed_type == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        lacks = "it needs DeepSpeed; pip install 'sage-dialog[deepspeed]'"
    if lacks:
        raise ValueError(f"launcher.config {launcher.config}: {lacks}")


def work(job: Path) -> None:
    """Do what `trained_by` wrote to a folder, as one of its processes."""
    told = _read(job)
    kind, name, threads, launcher = (told.pop(key) for key in ("kind", "name", "threads", "launcher"))
    _train_at(kind)(TrainingRunDir(job.parent), launcher, name, threads, **told)


def _train_at(kind: str) -> Any:
    return importlib.import_module(TRAININGS[kind]).train_at


def _identified(value: Any) -> Any:
    """What of an argument decides the weights, as JSON."""
    match value:
        case Policy():
            return identity(value)
        case pa.Table():
            return table_digest(value)
        case Config():
            return value.model_dump()
    return value


def _write(job: Path, told: Mapping[str, Any]) -> None:
    from pyarrow import feather

    job.mkdir()
    written: dict[str, Any] = {}
    for key, value in told.items():
        match value:
            case Policy():
                written[key] = {"policy": str(value.path.resolve())}
            case pa.Table():
                feather.write_feather(value, job / f"{key}.arrow", compression="uncompressed")
                written[key] = {"table": f"{key}.arrow"}
            case Config():
                written[key] = {"config": type(value).__name__, "values": value.model_dump(mode="json")}
            case _:
                written[key] = {"value": value}
    (job / JOB).write_text(json.dumps(written, indent=1))


def _read(job: Path) -> dict[str, Any]:
    from pyarrow import feather

    told: dict[str, Any] = {}
    for key, written in json.loads((job / JOB).read_text()).items():
        match written:
            case {"policy": path}:
                told[key] = Policy.open(path)
            case {"table": file}:
                told[key] = feather.read_table(job / file)
            case {"config": model, "values": values}:
                told[key] = getattr(parameters, model).model_validate(values)
            case {"value": value}:
                told[key] = value
    return told


def _launch(launcher: Launcher, threads: int, name: str, place: TrainingRunDir) -> None:
    """Run the processes of a job to their end, and show what they write."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launcher.config)),
        *("--num_processes", str(launcher.num_processes), "--num_machines", "1", "--main_process_port", "0"),
        *("--num_cpu_threads_per_process", str(threads), "--log_dir", str(place.job)),
        *("--module", WORKER, str(place.job)),
    ]
    package = str(Path(sage_dialog.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    before = place.log.stat().st_size if place.log.exists() else 0
    with _started(command, {**os.environ, "PYTHONPATH": path}) as processes, _alive(place.job / ALIVE):
        shown = threading.Thread(target=_show, args=(processes.stdout, place.log), daemon=True)
        shown.start()
        processes.wait()
    shown.join()
    if processes.returncode or not place.whole.is_dir():
        with place.log.open("rb") as log:
            log.seek(before)
            why, lines = _failure(log.read().decode(errors="replace"), place.job)
        raise TrainingFailedError(
            f"{name}: {why}, which ends its training. All that was written is in {place.log}, the last of it:\n"
            + "\n".join(f"  {line}" for line in lines[-_SHOWN:])
        )


@contextmanager
def _alive(pipe: Path) -> Iterator[None]:
    """A pipe that processes can see this one by: they read its end when this one closes it, or is killed."""
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)  # to open it for writing alone would wait for a reader
    try:
        yield
    finally:
        os.close(held)


@contextmanager
def _started(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher, which is gone when the block ends."""
    launcher = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in the terminal reaches this process alone, which ends the others
    )
    try:
        yield launcher
    finally:
        if launcher.poll() is None:
            launcher.terminate()
            try:
                launcher.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()


def _show(written: IO[bytes], log: Path) -> None:
    """Pass on what processes write, bars as they move."""
    with written, log.open("ab", buffering=0) as kept:
        while chunk := os.read(written.fileno(), 1 << 16):
            kept.write(chunk)
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()


def _failure(written: str, job: Path) -> tuple[str, list[str]]:
    """Which process failed first, and what it said; of all that was written what the launcher has not added."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in written.rstrip().split("\n")]
    for place, line in enumerate(lines):
        if found := _FAILED_FIRST.search(line):
            rank, code = int(found["rank"]), int(found["code"])
            failed = job / FAILED.format(rank)
            said = failed.read_text().splitlines() if failed.exists() else lines[:place]
            return f"process {rank} {f'was killed by signal {-code}' if code < 0 else 'failed'}", said
    return "accelerate launch failed", lines
