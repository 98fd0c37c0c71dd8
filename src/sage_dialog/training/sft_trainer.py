"""TRL's trainer for supervised fine-tuning, with weighted replies and with batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from sage_dialog.core.seeds import derived_seed


class ConversationTrainer(SFTTrainer):
    """Multiplies the loss of each token by its weight where batches hold weights, and groups batches by length.

    Attributes:
        length_seed: of the batches of similar length; None draws batches as transformers does. `group_by_length` of
            transformers draws from a random state that a checkpoint does not restore.
    """

    length_seed: tuple[int, str, str] | None = None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss, or the weighted sum of the tokens' losses divided by the number of tokens."""
        if "weights" not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        weights = inputs.pop("weights")
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        tokens = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -(outputs.log_probs * weights[:, 1:]).sum() / torch.as_tensor(tokens).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        return (loss, outputs) if return_outputs else loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.length_seed is None:
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        return _EpochSampler(self, [len(ids) for ids in rows["input_ids"]])


class WeightCollator(DataCollatorForSeq2Seq):
    """Pads tokens, labels and weights on the right."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> Any:
        weights = [torch.tensor(feature["weights"]) for feature in features]
        rest = [{key: value for key, value in feature.items() if key != "weights"} for feature in features]
        batch = super().__call__(rest, return_tensors)
        batch["weights"] = torch.nn.utils.rnn.pad_sequence(weights, batch_first=True)
        return batch


class _EpochSampler(LengthGroupedSampler):
    def __init__(self, trainer: ConversationTrainer, lengths: list[int]) -> None:
        args = trainer.args
        super().__init__(args.train_batch_size * args.gradient_accumulation_steps * args.world_size, lengths=lengths)
        self._trainer = trainer

    def __iter__(self) -> Iterator[int]:
        assert self._trainer.length_seed is not None
        epoch = int(self._trainer.state.epoch or 0)
        self.generator = torch.Generator().manual_seed(derived_seed(*self._trainer.length_seed, epoch) % 2**63)
        return super().__iter__()
