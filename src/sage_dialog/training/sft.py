"""Supervised fine-tuning, by LoRA or of all weights (paper §3.3, §3.4): loss on assistant messages only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sage_dialog.config import FineTuning, Launcher, LoraSettings
from sage_dialog.core.log_filters import quiet_libraries
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import derived_seed
from sage_dialog.inference.chat_format import ChatFormat
from sage_dialog.training.chat_templates import encoded, training_template
from sage_dialog.training.checkpoints import Trained, TrainingRunDir
from sage_dialog.training.launch import IN_PROCESS, trained_by
from sage_dialog.training.policy_model import (
    apart,
    arguments_of,
    continued_adapter,
    fitting,
    fresh_adapter,
    load_model,
    load_tokenizer,
    seed_torch,
    tables_for,
    trained,
)

if TYPE_CHECKING:
    from trl import SFTTrainer

_REDDIT = re.compile(r"(?P<thread>[0-9a-z]{5,})/[0-9a-z]{5,}")
"""Dialogues of schemas.DIALOGUES: ids of Reddit, in base 36."""


def fine_tune(
    name: str,
    base: Policy,
    start: Policy | None,
    conversations: pa.Table,
    config: FineTuning,
    lora: LoraSettings | None,
    seed: int,
    scratch: Path,
    blocks: bool,
    threads: int | None = None,
    launcher: Launcher = IN_PROCESS,
) -> Trained:
    """Train `name` on `conversations` (schemas.SFT_CONVERSATIONS); killed and called again, it goes on.

    A fresh adapter on the base where `start` is None (of all weights where `lora` is), else the adapter of `start`
    goes on. Conversations longer than `max_length` tokens are left out and listed, never cut.

    Raises:
        ValueError: if nothing is left to train on, `start` is no adapter on this base, or the base's chat template
            cannot be trained with (`templates.training_template`) or refuses a conversation.
    """
    told = {"base": base, "start": start, "conversations": conversations, "config": config, "lora": lora}
    return trained_by(launcher, "sft", scratch, name, threads, {**told, "seed": seed, "blocks": blocks})


def train_at(
    place: TrainingRunDir,
    launcher: Launcher,
    name: str,
    threads: int | None,
    base: Policy,
    start: Policy | None,
    conversations: pa.Table,
    config: FineTuning,
    lora: LoraSettings | None,
    seed: int,
    blocks: bool,
) -> Trained:
    """`fine_tune` at its place, in each of the launcher's processes."""
    from trl import SFTConfig

    quiet_libraries()
    trainer_seed = seed_torch(seed, "sft", name, threads)
    tokenizer = load_tokenizer(base)
    chat = ChatFormat(tokenizer, training_template(tokenizer))
    lessons, told_in = _lessons(name, chat, conversations)
    rows, training_rejects = fitting(
        name, "conversations", lessons, lambda row: len(row["input_ids"]), config.max_length
    )
    learnt, measured = apart(name, rows, [told_in[row] for row, _ in rows], config.held_out, seed)
    arguments = SFTConfig(**arguments_of(config, launcher, trainer_seed, measured, place))
    model = load_model(base, config.quantization)  # once the arguments are there: the processes may share it among them
    trainer = _trainer(config.group_by_length, seed, name)(
        model=fresh_adapter(model, lora) if start is None else continued_adapter(model, base, start),
        args=arguments,
        processing_class=tokenizer,
        **tables_for(learnt, measured),
    )
    return trained(trainer, name, base, start, blocks, config.patience, training_rejects, place)


def _lessons(
    name: str, chat: ChatFormat, conversations: pa.Table
) -> tuple[list[tuple[str, dict[str, list[int]]]], dict[str, str]]:
    """What is learned from, by conversation (by conversation and reply where each is a row); and the dialogue of each.

    Raises:
        ValueError: naming the conversation that the base's template refuses.
    """
    lessons, told_in = [], {}
    for row in conversations.select(["conversation_id", "source", "messages"]).to_pylist():
        key = row["conversation_id"]
        try:
            encoded_here = [*encoded(chat, row["messages"])]
        except ValueError as error:
            raise ValueError(f"{name}: conversation {key} of source {row['source']!r}: {error}") from error
        for number, lesson in enumerate(encoded_here, 1):
            own = key if chat.grows else f"{key} reply {number}"
            lessons.append((own, lesson))
            told_in[own] = spoken_in(key, row["source"])
    return lessons, told_in


def spoken_in(conversation: str, source: str) -> str:
    """The dialogue that a conversation tells, of Reddit its thread; what has the same words is held out together.

    Both sides of a dialogue are conversations of the mix, `listener:THREAD/COMMENT` and `speaker:THREAD/COMMENT`, and
    dialogues of a thread may begin alike.
    """
    dialogue = conversation.removeprefix(f"{source}:")
    reddit = _REDDIT.fullmatch(dialogue)
    return reddit["thread"] if reddit else dialogue


def _trainer(group_by_length: bool, seed: int, name: str) -> type[SFTTrainer]:
    """TRL's trainer; where asked with batches of similar length, drawn by seed and epoch.

    The library groups by length too, but by a random state that a checkpoint does not bring back.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler
    from trl import SFTTrainer

    if not group_by_length:
        return SFTTrainer

    class Sampler(LengthGroupedSampler):
        def __init__(self, trainer: SFTTrainer, lengths: list[int]) -> None:
            args = trainer.args
            update = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            super().__init__(update, lengths=lengths)
            self._trainer = trainer

        def __iter__(self) -> Any:
            epoch = int(self._trainer.state.epoch or 0)
            self.generator = torch.Generator().manual_seed(derived_seed(seed, "batches", name, epoch) % 2**63)
            return super().__iter__()

    class Grouped(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
            rows = self.train_dataset if train_dataset is None else train_dataset
            return Sampler(self, [len(ids) for ids in rows["input_ids"]])

    return Grouped
