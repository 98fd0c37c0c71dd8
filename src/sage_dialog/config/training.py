"""Parameters of all trainers: supervised fine-tuning, preference learning, and the launcher of both."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sage_dialog.config.base import Config, Count, NonNegative, PartialShare, Positive, invalid


class LoraSettings(Config):
    r: Count
    alpha: Count
    dropout: PartialShare
    target_modules: tuple[str, ...] | Literal["all-linear"]
    target_parameters: tuple[str, ...]


class Training(Config):
    """One run of a trainer; a step is one update of the weights."""

    learning_rate: Positive
    batch_size: Count
    epochs: Positive
    max_steps: Count | None
    warmup_ratio: PartialShare
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    weight_decay: NonNegative
    max_grad_norm: Positive
    max_length: Annotated[int, Field(ge=16)]
    held_out: PartialShare
    patience: Count | None
    router_aux_loss_coef: NonNegative | None
    gradient_checkpointing: bool
    logits_at_labels_only: bool
    quantization: Literal["nf4"] | None

    @model_validator(mode="after")
    def _check_patience(self) -> Self:
        if self.patience is not None and not self.held_out:
            raise invalid("patience needs held-out dialogues to measure the loss on; set held_out, such as to 0.05")
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.lr_scheduler_type == "constant" and self.warmup_ratio:
            raise invalid(
                f"lr_scheduler_type: constant has no warm-up, and warmup_ratio is {self.warmup_ratio:g}; set "
                "constant_with_warmup, or warmup_ratio: 0"
            )
        return self


class FineTuning(Training):
    group_by_length: bool


class Sft(Config):
    lora: LoraSettings | None
    training: FineTuning


class Preference(Training):
    part: Literal["message", "action"]
    pairs: Count | None
    negatives: Count | None
    rejected: Literal["random", "worst"]
    beta: Positive
    loss_type: Literal["sigmoid", "sigmoid_norm", "hinge", "ipo", "apo_zero"]
    sft_weight: NonNegative


class Launcher(Config):
    """The processes that train a policy; the batch of an update is the same for any number of them."""

    config: str | None
    num_processes: Count
    gradient_accumulation_steps: Count

    @model_validator(mode="after")
    def _check_config(self) -> Self:
        if self.config is None and self.num_processes > 1:
            raise invalid(f"{self.num_processes} processes need a config, such as conf/accelerate/ddp.yaml")
        return self

    def rows_at_once(self, batch_size: int) -> int:
        """Return the rows that a process reads in one forward pass.

        Raises:
            ValueError: if the batch size is not divisible.
        """
        divisor = self.num_processes * self.gradient_accumulation_steps
        if not batch_size or batch_size % divisor:
            raise ValueError(
                f"batch_size {batch_size} is not divisible by launcher.num_processes ({self.num_processes}) times "
                f"launcher.gradient_accumulation_steps ({self.gradient_accumulation_steps}); make it a multiple of "
                f"{divisor}"
            )
        return batch_size // divisor
