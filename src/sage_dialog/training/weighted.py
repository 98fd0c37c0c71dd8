"""Supervised fine-tuning with a weight for each reply, such as of its advantage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import DataCollatorForSeq2Seq
from trl import SFTConfig, SFTTrainer

from sage_dialog.config import FineTuning, Launcher, LoraSettings
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.inference.chat_format import ChatFormat, load_tokenizer
from sage_dialog.training.adapters import load_adapter, load_model, new_adapter
from sage_dialog.training.chat_templates import encode_conversation, training_format
from sage_dialog.training.job import TrainingJob
from sage_dialog.training.launch import IN_PROCESS, launch_training
from sage_dialog.training.run_dir import TrainingResult, TrainingRunDir
from sage_dialog.training.trainer import (
    filter_by_length,
    run_trainer,
    seed_training,
    train_eval_split,
    trainer_arguments,
    trainer_datasets,
)


def weighted_fine_tune(
    name: str,
    base: Policy,
    start: Policy | None,
    conversations: DataFrame,
    config: FineTuning,
    lora: LoraSettings | None,
    seed: int,
    scratch: Path,
    blocks: bool,
    threads: int | None = None,
    launcher: Launcher = IN_PROCESS,
) -> TrainingResult:
    """Train the policy `name` as `sft.fine_tune` does, with the loss of each reply multiplied by its weight.

    Args:
        conversations: schemas.WEIGHTED_CONVERSATIONS.

    Raises:
        ValueError: as `sft.fine_tune`, and if a conversation has not one weight for each reply.
    """
    job = TrainingJob("weighted", name, base, start, conversations, None, config, lora, blocks, seed, threads, launcher)
    return launch_training(job, train_weighted, scratch)


def train_weighted(job: TrainingJob, run_dir: TrainingRunDir) -> None:
    """Run a weighted fine-tuning job, in each of its processes."""
    config = job.config
    assert isinstance(config, FineTuning)
    seed = seed_training(job)
    tokenizer = load_tokenizer(job.base.path)
    examples = _encode(job.name, training_format(tokenizer), job.rows)
    examples, training_rejects = filter_by_length(job.name, "conversations", examples, config.max_length)
    train, held_out = train_eval_split(job.name, examples, config.held_out, job.seed)
    arguments = SFTConfig(remove_unused_columns=False, **trainer_arguments(job, seed, len(held_out) > 0, run_dir))
    model = load_model(job.base, config.quantization)
    trainer = _WeightedTrainer(
        model=new_adapter(model, job.lora) if job.start is None else load_adapter(model, job.base, job.start),
        args=arguments,
        processing_class=tokenizer,
        data_collator=_WeightedCollator(tokenizer),
        **trainer_datasets(train, held_out, ["input_ids", "labels", "weights"]),
    )
    run_trainer(trainer, job, training_rejects, run_dir)


class _WeightedTrainer(SFTTrainer):
    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the weighted sum of the tokens' losses, divided by the number of tokens."""
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


class _WeightedCollator(DataCollatorForSeq2Seq):
    """Pads tokens, labels and weights on the right."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> Any:
        weights = [torch.tensor(feature["weights"]) for feature in features]
        rest = [{key: value for key, value in feature.items() if key != "weights"} for feature in features]
        batch = super().__call__(rest, return_tensors)
        batch["weights"] = torch.nn.utils.rnn.pad_sequence(weights, batch_first=True)
        return batch


def _encode(name: str, chat: ChatFormat, conversations: DataFrame) -> pd.DataFrame:
    """Return training examples with a weight for each token."""
    examples = []
    for row in to_rows(conversations):
        key, weights = row["conversation_id"], list(row["weights"])
        replies = sum(message["role"] == "assistant" for message in row["messages"])
        if len(weights) != replies:
            raise ValueError(f"{name}: conversation {key} has {replies} replies and {len(weights)} weights")
        try:
            encoded = encode_conversation(chat, row["messages"])
        except ValueError as error:
            raise ValueError(f"{name}: conversation {key} of source {row['source']!r}: {error}") from error
        for number, example in enumerate(encoded, 1):
            own = weights if len(encoded) == 1 else weights[number - 1 : number]
            examples.append(
                {
                    "row": key if len(encoded) == 1 else f"{key} reply {number}",
                    "group": key,
                    "tokens": len(example["input_ids"]),
                    "weights": _token_weights(example["labels"], own),
                    **example,
                }
            )
    return pd.DataFrame(examples, columns=["row", "group", "tokens", "input_ids", "labels", "weights"])


def _token_weights(labels: list[int], weights: list[float]) -> list[float]:
    """Return the weight of its reply for each labelled token; replies are runs of labels."""
    found, reply, inside = [], -1, False
    for label in labels:
        if label != -100 and not inside:
            reply += 1
        inside = label != -100
        found.append(weights[reply] if inside else 0.0)
    return found
