"""Preference tuning: direct preference optimisation on chosen and rejected candidates (paper §3.5)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.data_utils import common_prefix_length

from sage_dialog.config import Launcher, Preference
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.inference.chat_format import ChatFormat, Messages, load_tokenizer
from sage_dialog.sac import Chain, parse
from sage_dialog.sac.chain import render_block
from sage_dialog.training.adapters import load_adapter, load_model
from sage_dialog.training.chat_templates import encode_conversation, training_format
from sage_dialog.training.full_weights import copy_to_reference
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

logger = logging.getLogger(__name__)


def preference_tune(
    name: str,
    base: Policy,
    start: Policy,
    pairs: DataFrame,
    config: Preference,
    seed: int,
    scratch: Path,
    threads: int | None = None,
    launcher: Launcher = IN_PROCESS,
) -> TrainingResult:
    """Train the adapter of `start` further by DPO; a killed training resumes when it is called again.

    The reference model is the starting policy, as DPO defines it.

    Args:
        pairs: schemas.DPO_PAIRS; those over `config.max_length` tokens are rejected, never cut.

    Raises:
        ValueError: if no pair is left, chosen and rejected of one are equal, or `start` is no adapter on this base.
    """
    blocks = start.card.blocks
    job = TrainingJob("dpo", name, base, start, pairs, None, config, None, blocks, seed, threads, launcher)
    return launch_training(job, train_dpo, scratch)


def train_dpo(job: TrainingJob, run_dir: TrainingRunDir) -> None:
    """Run a preference tuning job, in each of its processes."""
    config = job.config
    assert isinstance(config, Preference) and job.start is not None
    seed = seed_training(job)
    tokenizer = load_tokenizer(job.base.path)
    examples = _examples(job.name, training_format(tokenizer), job.rows, config, job.seed)
    examples, training_rejects = filter_by_length(job.name, "pairs", examples, config.max_length)
    train, held_out = train_eval_split(job.name, examples, config.held_out, job.seed)
    with_sft = config.sft_weight > 0
    arguments = DPOConfig(
        beta=config.beta,
        loss_type=[config.loss_type, "sft"] if with_sft else [config.loss_type],
        loss_weights=[1.0, config.sft_weight] if with_sft else None,
        **trainer_arguments(job, seed, len(held_out) > 0, run_dir),
    )
    model = load_model(job.base, config.quantization)  # after the arguments, which may shard it over the processes
    trainer = _EncodedDPOTrainer(
        model=load_adapter(model, job.base, job.start),
        args=arguments,
        processing_class=tokenizer,
        **trainer_datasets(train, held_out, ["prompt_ids", "chosen_ids", "rejected_ids"]),
    )
    copy_to_reference(trainer.model)
    run_trainer(trainer, job, training_rejects, run_dir)


class _EncodedDPOTrainer(DPOTrainer):
    """TRL's trainer on token ids. TRL's own encoding also trains what a template writes after the end of turn."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def _examples(name: str, chat: ChatFormat, pairs: DataFrame, config: Preference, seed: int) -> DataFrame:
    """Return a sample of the pairs as training examples; ids are situation and turn, with a number from the second on.

    Where the loss is on the action alone, a pair needs equal state blocks, which become part of the prompt, and
    different action blocks. Other pairs are left out.

    Raises:
        ValueError: if chosen and rejected of a pair are equal, or the base's template refuses one.
    """
    rows: dict[str, dict[str, Any]] = {}
    count: Counter[str] = Counter()
    for row in to_rows(pairs):
        turn = f"{row['situation_id']} {row['turn']}"
        if row["chosen"] == row["rejected"]:
            raise ValueError(f"dpo_pairs: chosen and rejected of {turn} are equal; run make_pairs again")
        count[turn] += 1
        rows[turn if count[turn] == 1 else f"{turn} {count[turn]}"] = row
    if config.part == "action":
        given, rows = len(rows), {key: row for key, row in rows.items() if _differs_in_action_alone(row)}
        if not rows:
            raise ValueError(
                f"{name}: none of {given} pairs has one state block and two action blocks; set preference.part: message"
            )
        logger.info("%s: %d of %d pairs have one state block and two action blocks", name, len(rows), given)
    examples = []
    for pair_id in sample_ids(list(rows), config.pairs, seed, "dpo pairs"):
        row = rows[pair_id]
        try:
            chosen, rejected = (
                _encode_reply(chat, row["prompt"], row[side], config.part) for side in ("chosen", "rejected")
            )
        except ValueError as error:
            raise ValueError(f"{name}: dpo_pairs: {pair_id}: {error}") from error
        prompt = common_prefix_length(chosen[0], rejected[0])
        ids = {"prompt_ids": chosen[0][:prompt]}
        for side, (before, reply) in {"chosen_ids": chosen, "rejected_ids": rejected}.items():
            ids[side] = [*before[prompt:], *reply]
        tokens = prompt + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))
        examples.append({"row": pair_id, "group": row["situation_id"], "tokens": tokens, **ids})
    return pd.DataFrame(examples, columns=["row", "group", "tokens", "prompt_ids", "chosen_ids", "rejected_ids"])


def _encode_reply(
    chat: ChatFormat, prompt: Messages, reply: str, part: Literal["message", "action"]
) -> tuple[list[int], list[int]]:
    """Return the tokens of a prompt, and of the reply up to its end of turn.

    Where the loss is on the action alone, the state block belongs to the prompt, and the reply is the action block.
    """
    messages = [*prompt, {"role": "assistant", "content": reply}]
    chain = parse(reply) if part == "action" else None
    if isinstance(chain, Chain):
        text, begin, _ = chat.locate_reply(messages)
        encoded, state = chat.encode(text), len(render_block("u", chain.state))
        action = state + 1 + len(render_block("a", chain.action))
        ends = [encoded.char_to_token(begin + length - 1) for length in (state, action)]
        if None in ends:
            raise ValueError("the base's tokenizer drops characters of a reply, so its tokens cannot be located")
        ids = list(encoded["input_ids"])
        return ids[: ends[0] + 1], ids[ends[0] + 1 : ends[1] + 1]
    example = encode_conversation(chat, messages)[-1]
    end = max(place for place, label in enumerate(example["labels"]) if label != -100) + 1
    ids, prompt_ids = example["input_ids"][:end], chat.tokens(prompt, reply_follows=True)
    begin = common_prefix_length(prompt_ids, ids)  # a token may reach across the boundary
    return ids[:begin], ids[begin:]


def _differs_in_action_alone(row: Mapping[str, Any]) -> bool:
    chosen, rejected = parse(row["chosen"]), parse(row["rejected"])
    if not isinstance(chosen, Chain) or not isinstance(rejected, Chain):
        return False
    return chosen.state == rejected.state and chosen.action != rejected.action
