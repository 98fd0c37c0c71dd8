"""Supervised fine-tuning, with LoRA or of all weights (paper §3.3, §3.4); the loss is on assistant messages only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from sage_dialog.config import FineTuning, Launcher, LoraSettings
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import derived_seed
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

_REDDIT_ID = re.compile(r"(?P<thread>[0-9a-z]{5,})/[0-9a-z]{5,}")
"""Dialogue ids of schemas.DIALOGUES: Reddit's thread and comment, in base 36."""


def fine_tune(
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
    measured: DataFrame | None = None,
) -> TrainingResult:
    """Train the policy `name` on conversations; a killed training resumes when it is called again.

    The seed is that of the policy it starts from: two policies trained from one, such as `sage_1` and its ablation,
    begin with the same adapter and read the conversations in the same order.

    Args:
        start: its adapter is trained further; None starts with a new adapter on the base.
        conversations: schemas.SFT_CONVERSATIONS; those over `config.max_length` tokens are rejected, never cut.
        lora: parameters of a new adapter; None trains all weights.
        measured: the same conversations in another form, whose length decides which are rejected: with the whole chain,
            for the arms of an ablation, so that all are trained on the same conversations.

    Raises:
        ValueError: if no conversation is left, `start` is no adapter on this base, or the base's chat template has no
            training template or refuses a conversation.
    """
    job = TrainingJob("sft", name, base, start, conversations, measured, config, lora, blocks, seed, threads, launcher)
    return launch_training(job, train_sft, scratch)


def train_sft(job: TrainingJob, run_dir: TrainingRunDir) -> None:
    """Run a fine-tuning job, in each of its processes."""
    config = job.config
    assert isinstance(config, FineTuning)
    seed = seed_training(job)
    tokenizer = load_tokenizer(job.base.path)
    chat = training_format(tokenizer)
    examples = _encode_conversations(job.name, chat, job.rows)
    if job.measured is not None:
        examples["tokens"] = _measured_tokens(job.name, examples, _encode_conversations(job.name, chat, job.measured))
    examples, training_rejects = filter_by_length(job.name, "conversations", examples, config.max_length)
    train, held_out = train_eval_split(job.name, examples, config.held_out, job.seed)
    arguments = SFTConfig(**trainer_arguments(job, seed, len(held_out) > 0, run_dir))
    model = load_model(job.base, config.quantization)  # after the arguments, which may shard it over the processes
    trainer_class = LengthGroupedTrainer if config.group_by_length else SFTTrainer
    trainer = trainer_class(
        model=new_adapter(model, job.lora) if job.start is None else load_adapter(model, job.base, job.start),
        args=arguments,
        processing_class=tokenizer,
        **trainer_datasets(train, held_out, ["input_ids", "labels"]),
    )
    if isinstance(trainer, LengthGroupedTrainer):
        trainer.batch_seed = (job.seed, "batches", (job.start or job.base).name)
    run_trainer(trainer, job, training_rejects, run_dir)


def dialogue_group(conversation: str, source: str) -> str:
    """Return the dialogue of a conversation, or the thread of a Reddit dialogue; groups are held out as a whole.

    The mix holds a dialogue from both sides, as `listener:THREAD/COMMENT` and `speaker:THREAD/COMMENT`, and dialogues
    of one thread may share their first messages.
    """
    dialogue = conversation.removeprefix(f"{source}:")
    reddit = _REDDIT_ID.fullmatch(dialogue)
    return reddit["thread"] if reddit else dialogue


def _encode_conversations(name: str, chat: ChatFormat, conversations: DataFrame) -> DataFrame:
    """Return training examples: one a conversation, or one a reply where the template changes earlier replies.

    Raises:
        ValueError: naming the conversation that the base's template refuses.
    """
    examples = []
    for row in to_rows(conversations[["conversation_id", "source", "messages"]]):
        key = row["conversation_id"]
        try:
            encoded = encode_conversation(chat, row["messages"])
        except ValueError as error:
            raise ValueError(f"{name}: conversation {key} of source {row['source']!r}: {error}") from error
        for number, example in enumerate(encoded, 1):
            example_id = key if len(encoded) == 1 else f"{key} reply {number}"
            group, tokens = dialogue_group(key, row["source"]), len(example["input_ids"])
            examples.append({"row": example_id, "group": group, "tokens": tokens, **example})
    return pd.DataFrame(examples, columns=["row", "group", "tokens", "input_ids", "labels"])


def _measured_tokens(name: str, examples: DataFrame, measured: DataFrame) -> pd.Series[int]:
    """Return the tokens of each example in the other form.

    Raises:
        ValueError: naming the first example that the other form lacks.
    """
    tokens = examples["row"].map(measured.set_index("row")["tokens"])
    if tokens.isna().any():
        raise ValueError(
            f"{name}: {examples.loc[tokens.isna(), 'row'].iloc[0]} is in one form of the training mix only; make both "
            "again by --pipelines sac_augmentation"
        )
    return tokens.astype("int64")


class LengthGroupedTrainer(SFTTrainer):
    """TRL's trainer with batches of similar length, drawn by seed and epoch.

    `group_by_length` of transformers draws from a random state that a checkpoint does not restore.
    """

    batch_seed: tuple[int, str, str]

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return _EpochSampler(self, [len(ids) for ids in rows["input_ids"]])


class _EpochSampler(LengthGroupedSampler):
    def __init__(self, trainer: LengthGroupedTrainer, lengths: list[int]) -> None:
        args = trainer.args
        super().__init__(args.train_batch_size * args.gradient_accumulation_steps * args.world_size, lengths=lengths)
        self._trainer = trainer

    def __iter__(self) -> Iterator[int]:
        epoch = int(self._trainer.state.epoch or 0)
        self.generator = torch.Generator().manual_seed(derived_seed(*self._trainer.batch_seed, epoch) % 2**63)
        return super().__iter__()
