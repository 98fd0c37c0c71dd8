"""Direct preference optimisation on chosen and rejected candidates (paper §3.5)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa

from sage_dialog.parameters import Preference
from sage_dialog.policies import Policy, identity
from sage_dialog.seeds import sample_ids
from sage_dialog.training.adapters import (
    TRAINER_DEFAULTS,
    apart,
    continued_adapter,
    device_arguments,
    fitting,
    load_base,
    measuring,
    quiet_libraries,
    seed_torch,
    tables_for,
    trained,
)
from sage_dialog.training.checkpoints import Trained, table_digest, workplace

Pair = dict[str, list[dict[str, str]]]


def prefer(
    name: str,
    base: Policy,
    start: Policy,
    pairs: pa.Table,
    dials: Preference,
    seed: int,
    scratch: Path,
    threads: int | None = None,
) -> Trained:
    """Continue the adapter of `start` by DPO on `pairs` (schemas.DPO_PAIRS); killed and called again, it goes on.

    The reference is the starting policy, as DPO defines it. Pairs that do not fit into `max_length` tokens
    are left out and listed, never cut.

    Raises:
        ValueError: if no pair is left, both sides of one are the same, or `start` is no adapter on this base.
    """
    from trl import DPOConfig, DPOTrainer

    quiet_libraries()
    trainer_seed = seed_torch(seed, "dpo", name, threads)
    decides = {
        "training": ["dpo", name, seed],
        "policies": [identity(base), identity(start)],
        "pairs": table_digest(pairs),
        "dials": dials.model_dump(),
    }
    with workplace(scratch, name, decides) as place:
        if earlier := place.earlier():
            return earlier
        model, tokenizer = load_base(base)
        given, situations = _conversational(pairs, dials, seed)
        rows, left_out = fitting(name, "pairs", given, lambda row: _length(tokenizer, row), dials.max_length)
        learnt, measured = apart(name, rows, [situations[pair] for pair, _ in rows], dials.held_out, seed)
        sft_term = dials.sft_weight > 0
        arguments = DPOConfig(
            output_dir=str(place.trainer),
            learning_rate=dials.learning_rate,
            per_device_train_batch_size=dials.batch_size,
            num_train_epochs=dials.epochs,
            beta=dials.beta,
            loss_type=[dials.loss_type, "sft"] if sft_term else [dials.loss_type],
            loss_weights=[1.0, dials.sft_weight] if sft_term else None,
            max_length=None,
            warmup_steps=0.1,
            lr_scheduler_type="cosine",
            seed=trainer_seed,
            **TRAINER_DEFAULTS,
            **measuring(measured, dials.batch_size),
            **device_arguments(),
        )
        trainer = DPOTrainer(
            model=continued_adapter(model, base, start),
            args=arguments,
            processing_class=tokenizer,
            **tables_for(learnt, measured),
        )
        return trained(trainer, name, base, start, start.card.blocks, left_out, place)


def _conversational(pairs: pa.Table, dials: Preference, seed: int) -> tuple[list[tuple[str, Pair]], dict[str, str]]:
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
                "prompt": rows[key]["prompt"],
                "chosen": [{"role": "assistant", "content": rows[key]["chosen"]}],
                "rejected": [{"role": "assistant", "content": rows[key]["rejected"]}],
            },
        )
        for key in sample_ids(list(rows), dials.pairs, seed, "dpo pairs")
    ]
    return drawn, {key: rows[key]["situation_id"] for key, _ in drawn}


def _length(tokenizer, pair: Pair) -> int:  # type: ignore[no-untyped-def]
    """Tokens of the longer of the two sides, prompt included."""
    return max(
        len(tokenizer.apply_chat_template(pair["prompt"] + pair[side], tokenize=True)["input_ids"])
        for side in ("chosen", "rejected")
    )
