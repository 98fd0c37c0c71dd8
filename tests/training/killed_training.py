"""A training in its own process, which kills itself at a given event of the file system in the scratch folder."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.datasets.policy import PolicyDirectory
from sage_dialog.training import callbacks
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.sft import fine_tune

CONFIG = FineTuning.from_base(learning_rate=1e-2, batch_size=2, epochs=2.0, max_length=200)
LORA = LoraSettings.from_base(
    r=4, alpha=8, dropout=0.1, target_modules=("q_proj", "v_proj")
)  # random numbers in each step
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def conversations() -> DataFrame:
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
    return from_rows(rows, schemas.SFT_CONVERSATIONS)


def pairs() -> DataFrame:
    prompt = [{"role": "user", "content": "My boss took the roses."}]
    rows = [
        {"situation_id": f"s{number}", "turn": 1, "prompt": prompt, "chosen": "Oh.", "rejected": f"Lol {number}."}
        for number in range(14)
    ]
    return from_rows(rows, schemas.DPO_PAIRS)


def train(kind: str, base: Policy, start: Policy | None, scratch: Path) -> Any:
    if kind == "dpo":
        assert start is not None
        config = Preference.from_base(learning_rate=1e-2, batch_size=2, epochs=2.0, held_out=0.2)
        return preference_tune("sage_t", base, start, pairs(), config, 0, scratch, threads=1)
    tuning = CONFIG.model_copy(update={"group_by_length": kind == "refinement"})
    return fine_tune("sage_t", base, start, conversations(), tuning, LORA, 0, scratch, blocks=True, threads=1)


def run(kind: str, base: Policy, start: Policy | None, folder: Path, kill_at: int | None) -> None:
    """Train in `folder/scratch` with a checkpoint at each step, and save the result in `folder`.

    The process kills itself at event `kill_at` of the file system below scratch, or writes the number of events to
    `folder/events`.
    """
    logging.basicConfig(filename=folder / "log", level=logging.INFO, force=True)
    callbacks.MIN_INTERVAL_S, callbacks.MAX_TIME_SHARE = 0.0, float("inf")
    scratch, count = folder / "scratch", itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(scratch)) and next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with open(folder / "errors", "a", buffering=1) as sys.stderr:
        sys.addaudithook(watch)
        trained = train(kind, base, start, scratch)
    trained.log.to_parquet(folder / "log.parquet")
    trained.training_rejects.to_parquet(folder / "training_rejects.parquet")
    PolicyDirectory(filepath=str(folder / "data")).save(trained.policy)
    (folder / "events").write_text(str(next(count)))


def start_policy(kind: str, base: Policy, folder: Path) -> Policy | None:
    """Return the starting policy of a kind of training, saved in `folder`."""
    if kind == "sft":
        return None
    policy = train("sft", base, None, folder).policy
    return Policy(policy.path, dataclasses.replace(policy.card))
