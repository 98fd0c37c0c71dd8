"""Direct preference optimisation on chosen and rejected candidates (paper §3.5)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from sage_dialog.config import Launcher, Preference
from sage_dialog.core.log_filters import quiet_libraries
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import sample_ids
from sage_dialog.inference.chat_format import ARGUMENTS, ChatFormat
from sage_dialog.training.checkpoints import Trained, TrainingRunDir
from sage_dialog.training.full_weights import whole_reference
from sage_dialog.training.launch import IN_PROCESS, trained_by
from sage_dialog.training.policy_model import (
    apart,
    arguments_of,
    continued_adapter,
    fitting,
    load_model,
    load_tokenizer,
    seed_torch,
    tables_for,
    trained,
)

Pair = dict[str, Any]
"""`prompt`, `chosen` and `rejected`: messages; and what the chat template is told."""


def prefer(
    name: str,
    base: Policy,
    start: Policy,
    pairs: pa.Table,
    config: Preference,
    seed: int,
    scratch: Path,
    threads: int | None = None,
    launcher: Launcher = IN_PROCESS,
) -> Trained:
    """Continue the adapter of `start` by DPO on `pairs` (schemas.DPO_PAIRS); killed and called again, it goes on.

    The reference is the starting policy, as DPO defines it. Pairs that do not fit into `max_length` tokens
    are left out and listed, never cut.

    Raises:
        ValueError: if no pair is left, both sides of one are the same, or `start` is no adapter on this base.
    """
    told = {"base": base, "start": start, "pairs": pairs, "config": config, "seed": seed}
    return trained_by(launcher, "dpo", scratch, name, threads, told)


def train_at(
    place: TrainingRunDir,
    launcher: Launcher,
    name: str,
    threads: int | None,
    base: Policy,
    start: Policy,
    pairs: pa.Table,
    config: Preference,
    seed: int,
) -> Trained:
    """`prefer` at its place, in each of the launcher's processes."""
    from trl import DPOConfig, DPOTrainer

    quiet_libraries()
    trainer_seed = seed_torch(seed, "dpo", name, threads)
    tokenizer = load_tokenizer(base)
    chat = ChatFormat(tokenizer)
    given, situations = _conversational(chat, pairs, config, seed)
    rows, training_rejects = fitting(name, "pairs", given, lambda row: _length(chat, row), config.max_length)
    learnt, measured = apart(name, rows, [situations[pair] for pair, _ in rows], config.held_out, seed)
    sft_term = config.sft_weight > 0
    arguments = DPOConfig(
        beta=config.beta,
        loss_type=[config.loss_type, "sft"] if sft_term else [config.loss_type],
        loss_weights=[1.0, config.sft_weight] if sft_term else None,
        **arguments_of(config, launcher, trainer_seed, measured, place),
    )
    model = load_model(base, config.quantization)  # once the arguments are there: the processes may share it among them
    trainer = DPOTrainer(
        model=continued_adapter(model, base, start),
        args=arguments,
        processing_class=tokenizer,
        **tables_for(learnt, measured),
    )
    whole_reference(trainer.model)
    return trained(trainer, name, base, start, start.card.blocks, config.patience, training_rejects, place)


def _conversational(
    chat: ChatFormat, pairs: pa.Table, config: Preference, seed: int
) -> tuple[list[tuple[str, Pair]], dict[str, str]]:
    """Pairs by situation and turn, a further one of the same turn by its number too; and the situation of each."""
    rows = {}
    met: Counter[str] = Counter()
    for row in pairs.to_pylist():
        turn = f"{row['situation_id']} {row['turn']}"
        met[turn] += 1
        if row["chosen"] == row["rejected"]:
            raise ValueError(f"dpo_pairs: chosen and rejected of {turn} are the same; make the pairs again")
        rows[turn if met[turn] == 1 else f"{turn} {met[turn]}"] = row
    drawn = [
        (
            key,
            {
                "prompt": chat.placed(rows[key]["prompt"]),
                "chosen": [{"role": "assistant", "content": rows[key]["chosen"]}],
                "rejected": [{"role": "assistant", "content": rows[key]["rejected"]}],
                "chat_template_kwargs": {**ARGUMENTS},
            },
        )
        for key in sample_ids(list(rows), config.pairs, seed, "dpo pairs")
    ]
    return drawn, {key: rows[key]["situation_id"] for key, _ in drawn}


def _length(chat: ChatFormat, pair: Pair) -> int:
    """Tokens of the longer of the two sides, prompt included."""
    return max(len(chat.tokens(pair["prompt"] + pair[side])) for side in ("chosen", "rejected"))
