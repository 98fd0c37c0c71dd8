"""Supervised fine-tuning with LoRA (paper §3.3, §3.4): loss on assistant messages only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sage_dialog.parameters import FineTuning, LoraDials
from sage_dialog.policies import Policy, identity
from sage_dialog.seeds import derived_seed
from sage_dialog.training.adapters import (
    TRAINER_DEFAULTS,
    apart,
    continued_adapter,
    device_arguments,
    fitting,
    fresh_adapter,
    load_base,
    measuring,
    quiet_libraries,
    seed_torch,
    tables_for,
    trained,
)
from sage_dialog.training.checkpoints import Trained, table_digest, workplace

if TYPE_CHECKING:
    from trl import SFTTrainer

_REDDIT = re.compile(r"(?P<thread>[0-9a-z]{5,})/[0-9a-z]{5,}")
"""Dialogues of schemas.DIALOGUES: ids of Reddit, in base 36."""


def fine_tune(
    name: str,
    base: Policy,
    start: Policy | None,
    conversations: pa.Table,
    dials: FineTuning,
    lora: LoraDials,
    seed: int,
    scratch: Path,
    blocks: bool,
    threads: int | None = None,
) -> Trained:
    """Train `name` on `conversations` (schemas.SFT_CONVERSATIONS); killed and called again, it goes on.

    A fresh adapter on the base where `start` is None, else the adapter of `start` goes on. Conversations
    longer than `max_length` tokens are left out and listed, never cut.

    Raises:
        ValueError: if nothing is left to train on, or `start` is no adapter on this base.
    """
    from trl import SFTConfig

    quiet_libraries()
    trainer_seed = seed_torch(seed, "sft", name, threads)
    decides = {
        "training": ["sft", name, blocks, seed],
        "policies": [identity(base), identity(start)],
        "conversations": table_digest(conversations),
        "dials": [dials.model_dump(), lora.model_dump()],
    }
    with workplace(scratch, name, decides) as place:
        if earlier := place.earlier():
            return earlier
        model, tokenizer = load_base(base)
        rows, left_out = fitting(
            name,
            "conversations",
            [
                (row["conversation_id"], {"messages": row["messages"]})
                for row in conversations.select(["conversation_id", "messages"]).to_pylist()
            ],
            lambda row: len(tokenizer.apply_chat_template(row["messages"], tokenize=True)["input_ids"]),
            dials.max_length,
        )
        sources = dict(zip(*(conversations[key].to_pylist() for key in ("conversation_id", "source")), strict=True))
        dialogues = [spoken_in(row, sources[row]) for row, _ in rows]
        learnt, measured = apart(name, rows, dialogues, dials.held_out, seed)
        arguments = SFTConfig(
            output_dir=str(place.trainer),
            learning_rate=dials.learning_rate,
            per_device_train_batch_size=dials.batch_size,
            num_train_epochs=dials.epochs,
            max_steps=dials.max_steps or -1,
            warmup_steps=dials.warmup_share,
            lr_scheduler_type=dials.schedule,
            max_length=None,
            assistant_only_loss=True,
            seed=trainer_seed,
            **TRAINER_DEFAULTS,
            **measuring(measured, dials.batch_size),
            **device_arguments(),
        )
        trainer = _trainer(dials.group_by_length, seed, name)(
            model=fresh_adapter(model, lora) if start is None else continued_adapter(model, base, start),
            args=arguments,
            processing_class=tokenizer,
            **tables_for(learnt, measured),
        )
        return trained(trainer, name, base, start, blocks, left_out, place)


def spoken_in(conversation: str, source: str) -> str:
    """The dialogue that a conversation tells, of Reddit its thread; what has the same words is held out together.

    Both sides of a dialogue are conversations of the mix, `listener:THREAD/COMMENT` and `sharer:THREAD/COMMENT`, and
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
            super().__init__(trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps, lengths=lengths)
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
