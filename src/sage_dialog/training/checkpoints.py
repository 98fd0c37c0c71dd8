"""Trainings that survive being killed: where they work, what they keep there, and how they go on.

A training works in `<scratch>/training/<policy>/<fingerprint>`, a folder named by everything that decides its weights::

    lock            held while a run trains here
    job/, log       of a training in processes of its own: what they are told, and all they wrote to the terminal
    trainer/        what the Trainer is writing, perhaps half
    step-00000120/  the latest checkpoint, there only when whole
    trained/        the policy and its tables, there only when whole

Other inputs never meet this folder; the catalog removes it once it has the policy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.hashing import fingerprint
from sage_dialog.core.policies import Policy, TrainedPolicy

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import Trainer

logger = logging.getLogger(__name__)

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
"""Code of others that decides the weights; another version trains anew."""

CODE = ("training", "inference/chat_format.py", "core/seeds.py")
"""Our own that does."""

EVERY_S = 60.0
"""Seconds of training between two checkpoints, at least."""

COST = 0.05
"""Share of the time that checkpoints may take; where they are slow, there are fewer."""

POLICY, LOG, TRAINING_REJECTS = "policy", "log.parquet", "training_rejects.parquet"


class Trained(NamedTuple):
    """What a training gives, in the order in which the catalog shall save it.

    The policy is last: with it the folder of the training goes, and the tables must be safe by then.
    """

    log: pa.Table
    """schemas.TRAINING_LOG"""
    training_rejects: pa.Table
    """schemas.TRAINING_REJECTS"""
    policy: Policy


@dataclass(frozen=True)
class TrainingRunDir:
    """The folder of one training."""

    folder: Path

    @property
    def trainer(self) -> Path:
        """For the Trainer; what is found here at the start is half written."""
        return self.folder / "trainer"

    @property
    def checkpoint(self) -> Path | None:
        """The latest whole one."""
        return max(self.folder.glob("step-*"), default=None)

    @property
    def job(self) -> Path:
        """What the processes of a training are told."""
        return self.folder / "job"

    @property
    def log(self) -> Path:
        """What they wrote to the terminal, in all runs."""
        return self.folder / "log"

    @property
    def whole(self) -> Path:
        """What came out; there when it is whole."""
        return self.folder / "trained"

    def earlier(self) -> Trained | None:
        """What an earlier run trained to the end; it was killed before the catalog had all of it."""
        if not self.whole.is_dir():
            return None
        trained = self.trained()
        logger.info("%s was trained by an earlier run; it is taken from %s", trained.policy.name, self.whole)
        return trained

    def trained(self) -> Trained:
        """What came out, opened."""
        import pyarrow.parquet as pq

        policy = Policy.open(self.whole / POLICY)
        kept = TrainedPolicy(policy.path, policy.card, self.folder)
        return Trained(pq.read_table(self.whole / LOG), pq.read_table(self.whole / TRAINING_REJECTS), kept)

    def keep(self, written: Path, step: int) -> None:
        """A checkpoint that the Trainer has written to its end; it takes the place of the one before."""
        (written / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nothing reads
        before = self.checkpoint
        with atomic_folder(self.folder / f"step-{step:08d}") as partial:
            for path in written.iterdir():
                path.rename(partial / path.name)
        written.rmdir()
        if before is not None:
            shutil.rmtree(before)

    def finish(self, log: pa.Table, training_rejects: pa.Table, save: Callable[[Path], Policy]) -> Trained:
        """Keep what came out; `save` writes the policy to the folder it is given."""
        import pyarrow.parquet as pq

        with atomic_folder(self.whole) as partial:
            save(partial / POLICY)
            pq.write_table(log, partial / LOG)
            pq.write_table(training_rejects, partial / TRAINING_REJECTS)
        return self.trained()

    def tidy(self) -> None:
        """Remove what a killed process left half written or half removed."""
        for gone in self.folder.parent.glob(".*.gone"):
            shutil.rmtree(gone, ignore_errors=True)
        needed = {self.checkpoint, self.whole, self.log, self.folder / "lock"}
        for path in self.folder.iterdir():
            if path not in needed:
                shutil.rmtree(path)


@contextmanager
def run_dir(scratch: Path, name: str, fingerprint_inputs: Mapping[str, object]) -> Iterator[TrainingRunDir]:
    """The place to train `name` at, for one process at a time.

    Args:
        decides: everything that decides the weights but code, libraries and machine; what JSON can write.

    Raises:
        ValueError: if another process is at it.
    """
    from filelock import FileLock, Timeout

    folder = Path(scratch) / "training" / name / fingerprint({**fingerprint_inputs, "machine": _machine()}, *CODE)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / "lock").acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is training {name} on the same data with the same parameters, in {folder}; "
            "wait for it, or give this run a scratch folder of its own"
        ) from error
    with held:
        place = TrainingRunDir(folder)
        place.tidy()
        yield place


def _machine() -> dict[str, object]:
    import torch

    return {
        "libraries": {library: version(library) for library in LIBRARIES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def table_digest(table: pa.Table) -> str:
    """sha256 of the rows; how they are split into chunks makes no difference."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def train_on(trainer: Trainer, name: str, place: TrainingRunDir) -> None:
    """Train to the end, from the latest checkpoint where there is one, and keep checkpoints on the way.

    A checkpoint is taken only where the log has just been written, the sums behind its means being empty then: that
    is what makes the log of a training that was interrupted the same as of one that was not.
    """
    from accelerate.utils import broadcast_object_list
    from transformers import TrainerCallback

    class Checkpoints(TrainerCallback):
        def __init__(self) -> None:
            self._last = self._asked = time.monotonic()
            self._cost = 0.0

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" not in (logs or {}) or state.global_step >= state.max_steps:
                return
            self._asked = time.monotonic()
            due = self._asked - self._last >= max(EVERY_S, self._cost / COST)
            control.should_save = broadcast_object_list([due])[0]  # of many processes the first one's clock counts

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.accelerator.wait_for_everyone()  # each writes its share
            if state.is_world_process_zero:
                place.keep(place.trainer / f"checkpoint-{state.global_step}", state.global_step)
            trainer.accelerator.wait_for_everyone()
            self._last = time.monotonic()
            self._cost = self._last - self._asked

    trainer.add_callback(Checkpoints())
    if checkpoint := place.checkpoint:
        logger.info("%s goes on from %s, where an earlier run was interrupted", name, checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def whole_weights(model: torch.nn.Module, first: bool) -> dict[str, torch.Tensor]:
    """What was trained, whole, by its names in the model; every process must ask, and the first alone is told.

    Where processes share a model, each holds a part of every weight. They are put together one by one, so that the
    memory of a GPU holds one of them at a time.
    """
    weights = {}
    for name, weight in model.named_parameters(remove_duplicate=False):  # tied ones are saved under both names
        if not weight.requires_grad:
            continue
        if hasattr(weight, "full_tensor"):  # FSDP
            whole = weight.detach().full_tensor().cpu()
        elif hasattr(weight, "ds_id"):  # ZeRO-3
            from deepspeed import zero

            with zero.GatheredParameters([weight]):
                whole = weight.detach().to("cpu", copy=True)
        else:
            whole = weight.detach()
        if first:
            weights[name] = whole
    return weights
