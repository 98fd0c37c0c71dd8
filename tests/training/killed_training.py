"""A training in a process of its own, which kills itself at a chosen moment of its work in the scratch folder."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.core.policies import Policy

DIALS = FineTuning.from_base(learning_rate=1e-2, batch_size=2, epochs=2.0, max_length=200)
LORA = LoraSettings.from_base(
    r=4, alpha=8, dropout=0.1, target_modules=("q_proj", "v_proj")
)  # random numbers in each step
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def conversations() -> pa.Table:
    rows = [
        {
            "conversation_id": f"c{number}",
            "source": "listener",
            "messages": [
                {"role": "user", "content": f"My boss took the roses {number} times."},
                {"role": "assistant", "content": "You can do this." + " Really." * (number % 5)},
            ],
        }
        for number in range(13)
    ]
    rows[5]["messages"][0]["content"] *= 40  # too long
    return pa.Table.from_pylist(rows, schema=schemas.SFT_CONVERSATIONS)


def pairs() -> pa.Table:
    prompt = [{"role": "user", "content": "My boss took the roses."}]
    rows = [
        {"situation_id": f"s{number}", "turn": 1, "prompt": prompt, "chosen": "Oh.", "rejected": f"Lol {number}."}
        for number in range(14)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.DPO_PAIRS)


def train(kind: str, base: Policy, start: Policy | None, scratch: Path) -> Any:
    from sage_dialog.training.dpo import prefer
    from sage_dialog.training.sft import fine_tune

    if kind == "dpo":
        assert start is not None
        config = Preference.from_base(learning_rate=1e-2, batch_size=2, epochs=2.0, held_out=0.2)
        return prefer("sage_t", base, start, pairs(), config, 0, scratch, threads=1)
    tuning = DIALS.model_copy(update={"group_by_length": kind == "refinement"})
    return fine_tune("sage_t", base, start, conversations(), tuning, LORA, 0, scratch, blocks=True, threads=1)


def run(kind: str, base: Policy, start: Policy | None, folder: Path, kill_at: int | None) -> None:
    """Train in `folder/scratch`, a checkpoint at each step, and save what comes out in `folder/data`.

    Dies at event `kill_at` of the file system below scratch; else writes how many there were to `folder/events`.
    """
    import pyarrow.parquet as pq

    from sage_dialog.datasets.policy import PolicyDirectory
    from sage_dialog.training import checkpoints

    logging.basicConfig(filename=folder / "log", level=logging.INFO, force=True)
    checkpoints.EVERY_S, checkpoints.COST = 0.0, float("inf")
    scratch, count = folder / "scratch", itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(scratch)) and next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with open(folder / "errors", "a", buffering=1) as sys.stderr:
        sys.addaudithook(watch)
        trained = train(kind, base, start, scratch)
    pq.write_table(trained.log, folder / "log.parquet")
    pq.write_table(trained.training_rejects, folder / "training_rejects.parquet")
    PolicyDirectory(filepath=str(folder / "data")).save(trained.policy)
    (folder / "events").write_text(str(next(count)))


def started(kind: str, base: Policy, folder: Path) -> Policy | None:
    """The policy that a training of this kind goes on from, kept in `folder`."""
    if kind == "sft":
        return None
    policy = train("sft", base, None, folder).policy
    return Policy(policy.path, dataclasses.replace(policy.card))
