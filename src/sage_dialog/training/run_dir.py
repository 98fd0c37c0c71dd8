"""The folder of a training, from which a killed training resumes.

A training runs in `<scratch>/training/<policy>/<fingerprint>`, named after everything that determines the weights::

    lock            held while a process trains here
    job/, log       of a training in worker processes: their arguments, and their output
    trainer/        what the Trainer is writing, possibly incomplete
    step-00000120/  the latest checkpoint, always complete
    trained/        the policy and its tables, always complete

The catalog removes the folder after it has saved the policy.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.hashing import fingerprint
from sage_dialog.core.policies import Policy, TrainedPolicy
from sage_dialog.core.tables import DataFrame

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
"""Libraries whose version determines the weights."""

CODE = ("training", "inference/chat_format.py", "sac/chain.py", "core/seeds.py")
"""Code of this package that determines the weights."""

POLICY, LOG, TRAINING_REJECTS = "policy", "log.parquet", "training_rejects.parquet"


class TrainingResult(NamedTuple):
    """The outputs of a training, in the order in which the catalog saves them.

    The policy is last: saving it removes the folder of the training.
    """

    log: DataFrame
    """schemas.TRAINING_LOG"""
    training_rejects: DataFrame
    """schemas.TRAINING_REJECTS"""
    policy: Policy


@dataclass(frozen=True)
class TrainingRunDir:
    """The folder of one training."""

    folder: Path

    @property
    def trainer(self) -> Path:
        """The Trainer's output folder; its content is incomplete when a training starts."""
        return self.folder / "trainer"

    @property
    def checkpoint(self) -> Path | None:
        """The latest complete checkpoint."""
        return max(self.folder.glob("step-*"), default=None)

    @property
    def job(self) -> Path:
        """The arguments of worker processes."""
        return self.folder / "job"

    @property
    def log(self) -> Path:
        """The output of worker processes, of all runs."""
        return self.folder / "log"

    @property
    def trained(self) -> Path:
        """The result; exists only when complete."""
        return self.folder / "trained"

    def result(self) -> TrainingResult:
        """Read the result."""
        policy = Policy.open(self.trained / POLICY)
        log, training_rejects = (
            pd.read_parquet(self.trained / name, dtype_backend="pyarrow") for name in (LOG, TRAINING_REJECTS)
        )
        return TrainingResult(log, training_rejects, TrainedPolicy(policy.path, policy.card, self.folder))

    def save_result(self, log: DataFrame, training_rejects: DataFrame, save_policy: Callable[[Path], Policy]) -> None:
        """Save the result; `save_policy` writes the policy to a folder."""
        with atomic_folder(self.trained) as partial:
            save_policy(partial / POLICY)
            log.to_parquet(partial / LOG)
            training_rejects.to_parquet(partial / TRAINING_REJECTS)

    def save_checkpoint(self, step: int) -> None:
        """Replace the latest checkpoint by the one that the Trainer has written."""
        written, previous = self.trainer / f"checkpoint-{step}", self.checkpoint
        (written / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nothing reads
        with atomic_folder(self.folder / f"step-{step:08d}") as partial:
            for path in written.iterdir():
                path.rename(partial / path.name)
        written.rmdir()
        if previous is not None:
            shutil.rmtree(previous)

    def remove_incomplete(self) -> None:
        """Remove what a killed process left incomplete."""
        for removed in self.folder.parent.glob(".*.gone"):
            shutil.rmtree(removed, ignore_errors=True)
        complete = {self.checkpoint, self.trained, self.log, self.folder / "lock"}
        for path in self.folder.iterdir():
            if path not in complete:
                shutil.rmtree(path)


def checkpoint_fault(checkpoint: Path) -> str | None:
    """Return which file of a checkpoint is damaged, by the checksums that torch writes; None where none is."""
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        try:
            match file.suffix:
                case ".pt" | ".pth":
                    with ZipFile(file) as parts:
                        if damaged := parts.testzip():
                            return f"{file.name} ({damaged})"
                case ".safetensors":
                    with safe_open(file, "pt"):
                        pass
                case ".json":
                    json.loads(file.read_text())
        except (BadZipFile, SafetensorError, ValueError, OSError) as error:
            return f"{file.name} ({error})"
    return None


@contextmanager
def open_run_dir(scratch: Path, name: str, fingerprint_inputs: Mapping[str, object]) -> Iterator[TrainingRunDir]:
    """Lock the folder of a training, and yield it.

    Args:
        fingerprint_inputs: everything that determines the weights except code, libraries and machine; as JSON.

    Raises:
        ValueError: if another process holds the lock.
    """
    folder = Path(scratch) / "training" / name / fingerprint({**fingerprint_inputs, "machine": _machine()}, *CODE)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is training {name} on the same data with the same parameters, in {folder}; "
            "wait for it, or set another scratch folder"
        ) from error
    with lock:
        run_dir = TrainingRunDir(folder)
        run_dir.remove_incomplete()
        yield run_dir


def _machine() -> dict[str, object]:
    return {
        "libraries": {library: version(library) for library in LIBRARIES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }
