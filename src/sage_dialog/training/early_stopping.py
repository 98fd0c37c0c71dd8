"""Stopping early: a training ends when it gets no better at what is held out, and gives the policy at its best."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from sage_dialog.training.checkpoints import TrainingRunDir

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

logger = logging.getLogger(__name__)

BEST = "best.safetensors"
"""In a checkpoint, beside the weights of its own step, those of the best measurement so far."""


def stop_early(trainer: Trainer, name: str, patience: int, place: TrainingRunDir) -> None:
    """End the training after `patience` measurements in a row without a lower loss; it gives what was best.

    To be called before `checkpoints.train_on`, whose checkpoints hold the best weights too.

    Raises:
        ValueError: if the weights are dealt out to processes, none of which could keep the best.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import TrainerCallback

    if trainer.is_fsdp_enabled or any(hasattr(weight, "ds_id") for weight in trainer.model.parameters()):
        raise ValueError(
            f"{name}: patience keeps the best weights, and FSDP and ZeRO-3 deal weights out to processes; set patience "
            "to null, or train by DDP or ZeRO-2"
        )
    weights = {key: weight for key, weight in trainer.model.named_parameters() if weight.requires_grad}

    class Best(TrainerCallback):
        loss, step, waited = math.inf, 0, 0
        kept: dict[str, torch.Tensor] = {}  # noqa: RUF012

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if place.checkpoint is None or not state.global_step:
                return
            with safe_open(place.checkpoint / BEST, "pt") as file:
                told = file.metadata()
                self.loss, self.step, self.waited = float(told["loss"]), int(told["step"]), int(told["waited"])
                self.kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            if (loss := metrics["eval_loss"]) < self.loss:
                self.loss, self.step, self.waited = loss, state.global_step, 0
                self.kept = {key: weight.detach().to("cpu", copy=True) for key, weight in weights.items()}
                return
            self.waited += 1
            control.should_training_stop = control.should_training_stop or self.waited >= patience

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                told = {"loss": repr(self.loss), "step": str(self.step), "waited": str(self.waited)}
                save_file(self.kept, place.trainer / f"checkpoint-{state.global_step}" / BEST, told)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for key, best in self.kept.items():
                weights[key].data.copy_(best)
            if self.step < state.global_step:
                logger.info(
                    "%s is as of step %d of %d, where the loss on the held out was lowest (%.4f)",
                    *(name, self.step, state.global_step, self.loss),
                )

    trainer.add_callback(Best())
