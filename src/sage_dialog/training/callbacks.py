"""What is seen of a training: a bar while it runs, a line when it ends, and its log as a table."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sage_dialog.schemas import TRAINING_LOG

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

TRAIN, HELD_OUT = "train", "held out"

_MEASURES = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "token_accuracy": "mean_token_accuracy",
    "preference_accuracy": "rewards/accuracies",
    "preference_margin": "rewards/margins",
}
"""Columns of schemas.TRAINING_LOG, and what TRL calls them."""


def watch(trainer: Trainer, name: str) -> None:
    """Show a bar with the steps, the time left and the latest loss; at the end a line with totals.

    The last step is logged and measured too. Seconds and memory are in that line alone: in the table they would make
    two runs of one training differ. Of several processes the first shows it; tokens are those of all, and memory is
    that of the one which had most.
    """
    import torch
    from accelerate.utils import gather_object
    from tqdm import tqdm
    from transformers import PrinterCallback, TrainerCallback

    class LossBar(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=f"training {name}",
                unit="step",
                mininterval=1.0,
                disable=not state.is_world_process_zero,
            )
            self.began = (time.monotonic(), state.global_step, state.num_input_tokens_seen)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)
            if state.global_step >= state.max_steps:
                control.should_log = True
                control.should_evaluate = args.eval_strategy != "no"

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs = kwargs.get("logs") or {}
            if "loss" in logs:
                self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.bar.close()
            began, first, tokens = self.began
            seconds, tokens = time.monotonic() - began, state.num_input_tokens_seen - tokens
            peaks = gather_object([_peak_memory()])
            logger.info(
                "%s: %d of %d steps, %d tokens in %.1f s (%.0f a second), peak memory %.0f MB%s",
                *(name, state.global_step - first, state.max_steps, tokens, seconds, tokens / max(seconds, 1e-9)),
                *(max(peaks) / 1e6, f" in the largest of {len(peaks)} processes" if len(peaks) > 1 else ""),
            )

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LossBar())


def _peak_memory() -> int:
    """Bytes that torch allocated on the GPU, or that the process has had in memory since it started."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def training_log(history: Sequence[Mapping[str, Any]]) -> pa.Table:
    """What a Trainer logged (`trainer.state.log_history`) as schemas.TRAINING_LOG, in the order of the steps."""
    rows = []
    for entry in history:
        for split, prefix in ((TRAIN, ""), (HELD_OUT, "eval_")):
            if f"{prefix}loss" in entry:
                measures = {column: entry.get(prefix + measure) for column, measure in _MEASURES.items()}
                told = {"step": entry["step"], "epoch": entry["epoch"], "tokens": entry["num_input_tokens_seen"]}
                rows.append({**told, "split": split, **measures})
    return pa.Table.from_pylist(rows, schema=TRAINING_LOG)
