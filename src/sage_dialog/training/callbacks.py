"""Trainer callbacks for progress, early stopping and checkpoints, and the log of a training as a table."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import Trainer, TrainerCallback

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.schemas import TRAINING_LOG
from sage_dialog.training.adapters import gather_weights
from sage_dialog.training.run_dir import TrainingRunDir

logger = logging.getLogger(__name__)

TRAIN, HELD_OUT = "train", "held out"
BEST = "best.safetensors"
"""The best weights so far, beside the current ones in a checkpoint."""

MIN_INTERVAL_S = 60.0
"""Minimum time of training between two checkpoints, in seconds."""

MAX_TIME_SHARE = 0.05
"""Maximum share of the time for writing checkpoints; slow checkpoints are written less often."""

_LOG_COLUMNS = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "router_aux_loss": "aux_loss",
    "token_accuracy": "mean_token_accuracy",
    "preference_accuracy": "rewards/accuracies",
    "preference_margin": "rewards/margins",
}
"""Columns of schemas.TRAINING_LOG, and TRL's names of them."""


class TrainingProgress(TrainerCallback):
    """Show a progress bar with the latest loss, and log the totals of the training; log and evaluate the last step.

    Time and memory are logged but not in the table, where they would make two runs of one training differ. The first of
    several processes shows the progress; tokens are the sum, memory the maximum over all processes.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=f"training {self._name}",
            unit="step",
            mininterval=1.0,
            disable=not state.is_world_process_zero,
        )
        self._start = (time.monotonic(), state.global_step, state.num_input_tokens_seen)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(state.global_step - self._bar.n)
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.close()
        started, first_step, first_tokens = self._start
        seconds, tokens = time.monotonic() - started, state.num_input_tokens_seen - first_tokens
        peaks = gather_object([_peak_memory()])
        logger.info(
            "%s: %d of %d steps, %d tokens in %.1f s (%.0f a second), peak memory %.0f MB%s",
            *(self._name, state.global_step - first_step, state.max_steps, tokens, seconds),
            *(tokens / max(seconds, 1e-9), max(peaks) / 1e6),
            f" in the largest of {len(peaks)} processes" if len(peaks) > 1 else "",
        )


class EarlyStopping(TrainerCallback):
    """Stop after `patience` evaluations in a row without a lower loss, and keep the best weights.

    transformers' EarlyStoppingCallback keeps weights only with `load_best_model_at_end`, which saves a checkpoint at
    each evaluation. Here the first process keeps the best weights in memory, and in the checkpoints that are saved
    anyway. Add this callback before `CheckpointCallback`.

    Attributes:
        best: the weights with the lowest loss, as of `gather_weights`; empty in other processes than the first.
        loss: the lowest loss, the same in all processes; infinite before the first evaluation.
    """

    def __init__(self, trainer: Trainer, name: str, patience: int, run_dir: TrainingRunDir) -> None:
        self._trainer, self._name, self._patience, self._run_dir = trainer, name, patience, run_dir
        self.loss, self._step, self._waited = math.inf, 0, 0
        self.best: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._run_dir.checkpoint is None or not state.global_step:
            return
        with safe_open(self._run_dir.checkpoint / BEST, "pt") as file:
            saved = file.metadata()
            self.loss, self._step, self._waited = float(saved["loss"]), int(saved["step"]), int(saved["waited"])
            if state.is_world_process_zero:
                self.best = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if (loss := metrics["eval_loss"]) < self.loss:
            self.loss, self._step, self._waited = loss, state.global_step, 0
            weights = gather_weights(self._trainer.model, first=state.is_world_process_zero)
            self.best = {key: weight.to("cpu", copy=True) for key, weight in weights.items()}
            return
        self._waited += 1
        control.should_training_stop = control.should_training_stop or self._waited >= self._patience

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            metadata = {"loss": repr(self.loss), "step": str(self._step), "waited": str(self._waited)}
            save_file(self.best, self._run_dir.trainer / f"checkpoint-{state.global_step}" / BEST, metadata)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if math.isfinite(self.loss) and self._step < state.global_step:
            logger.info(
                "%s has the weights of step %d of %d, where the held-out loss was lowest (%.4f)",
                *(self._name, self._step, state.global_step, self.loss),
            )


class CheckpointCallback(TrainerCallback):
    """Save checkpoints by time, not by steps.

    A checkpoint is saved only directly after a row of the log, when the sums behind the logged means are empty: the log
    of a resumed training then equals that of an uninterrupted one.
    """

    def __init__(self, trainer: Trainer, run_dir: TrainingRunDir) -> None:
        self._accelerator = trainer.accelerator
        self._run_dir = run_dir
        self._saved_at = self._started_at = time.monotonic()
        self._duration = 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}) or state.global_step >= state.max_steps:
            return
        self._started_at = time.monotonic()
        due = self._started_at - self._saved_at >= max(MIN_INTERVAL_S, self._duration / MAX_TIME_SHARE)
        control.should_save = broadcast_object_list([due])[0]  # the clock of the first process decides

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._accelerator.wait_for_everyone()  # each process writes its shard
        if state.is_world_process_zero:
            self._run_dir.save_checkpoint(state.global_step)
        self._accelerator.wait_for_everyone()
        self._saved_at = time.monotonic()
        self._duration = self._saved_at - self._started_at


def training_log(history: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Return the log of a Trainer (`trainer.state.log_history`) as schemas.TRAINING_LOG, in the order of the steps."""
    rows = []
    for entry in history:
        for split, prefix in ((TRAIN, ""), (HELD_OUT, "eval_")):
            if f"{prefix}loss" in entry:
                row = {"step": entry["step"], "epoch": entry["epoch"], "tokens": entry["num_input_tokens_seen"]}
                measures = {column: entry.get(prefix + key) for column, key in _LOG_COLUMNS.items()}
                rows.append({**row, "split": split, **measures})
    return from_rows(rows, TRAINING_LOG)


def _peak_memory() -> int:
    """Return the peak memory in bytes: of torch on the GPU, or of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
