"""Supervised fine-tuning, with LoRA or of all weights (paper §3.3, §3.4); the loss is on assistant messages only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from trl import SFTConfig

from sage_dialog.config import FineTuning, Launcher, LoraSettings
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.inference.chat_format import ChatFormat, load_tokenizer
from sage_dialog.training.adapters import load_adapter, load_model, new_adapter
from sage_dialog.training.chat_templates import encode_conversation, training_format
from sage_dialog.training.job import TrainingJob
from sage_dialog.training.launch import IN_PROCESS, launch_training
from sage_dialog.training.run_dir import TrainingResult, TrainingRunDir
from sage_dialog.training.sft_trainer import ConversationTrainer, WeightCollator
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
        conversations: schemas.SFT_CONVERSATIONS; those over `config.max_length` tokens are rejected, never cut. In
            schemas.WEIGHTED_CONVERSATIONS the loss of each reply is multiplied by its weight.
        lora: parameters of a new adapter; None trains all weights.
        measured: the same conversations in another form, whose length decides which are rejected: with the whole chain,
            for the arms of an ablation, so that all are trained on the same conversations.

    Raises:
        ValueError: if no conversation is left, `start` is no adapter on this base, the base's chat template has no
            training template or refuses a conversation, or a conversation has not one weight for each reply.
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
    weighted = "weights" in examples
    arguments = SFTConfig(
        remove_unused_columns=not weighted, **trainer_arguments(job, seed, len(held_out) > 0, run_dir)
    )
    model = load_model(job.base, config.quantization)  # after the arguments, which may shard it over the processes
    trainer = ConversationTrainer(
        model=new_adapter(model, job.lora) if job.start is None else load_adapter(model, job.base, job.start),
        args=arguments,
        processing_class=tokenizer,
        data_collator=WeightCollator(tokenizer) if weighted else None,
        **trainer_datasets(
            train, held_out, ["input_ids", "labels", "weights"] if weighted else ["input_ids", "labels"]
        ),
    )
    if config.group_by_length:
        trainer.length_seed = (job.seed, "batches", (job.start or job.base).name)
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
        ValueError: naming the conversation that the base's template refuses, or that has not one weight for each reply.
    """
    examples = []
    for row in to_rows(conversations):
        key = row["conversation_id"]
        try:
            encoded = encode_conversation(chat, row["messages"])
            weights = _reply_weights(row)
        except ValueError as error:
            raise ValueError(f"{name}: conversation {key} of source {row['source']!r}: {error}") from error
        for number, example in enumerate(encoded, 1):
            whole = len(encoded) == 1
            fields = {
                "row": key if whole else f"{key} reply {number}",
                "group": dialogue_group(key, row["source"]),
                "tokens": len(example["input_ids"]),
                **example,
            }
            if weights is not None:
                own = weights if whole else weights[number - 1 : number]
                fields["weights"] = _token_weights(example["labels"], own)
            examples.append(fields)
    columns = ["row", "group", "tokens", "input_ids", "labels"]
    return pd.DataFrame(examples, columns=[*columns, "weights"] if "weights" in conversations else columns)


def _reply_weights(conversation: Mapping[str, Any]) -> list[float] | None:
    """Return the weight of each reply; None if conversations have none."""
    if "weights" not in conversation:
        return None
    weights = list(conversation["weights"])
    replies = sum(message["role"] == "assistant" for message in conversation["messages"])
    if len(weights) != replies:
        raise ValueError(f"{replies} replies and {len(weights)} weights")
    return weights


def _token_weights(labels: list[int], weights: list[float]) -> list[float]:
    """Return the weight of its reply for each labelled token; replies are runs of labels."""
    found, reply, inside = [], -1, False
    for label in labels:
        if label != -100 and not inside:
            reply += 1
        inside = label != -100
        found.append(weights[reply] if inside else 0.0)
    return found


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
