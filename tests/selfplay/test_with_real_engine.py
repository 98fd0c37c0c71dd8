"""The dialogue game on a real engine: the same rows for any order and grouping of situations."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_dialog import schemas
from sage_dialog.config import FineTuning, SamplingConfig, SelfPlay
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.roles.protocols import Choice, NoChoice
from sage_dialog.selfplay.search import search

SAMPLING = SamplingConfig.from_base(temperature=1.2, top_k=30, max_new_tokens=18)
CONFIG = SelfPlay.from_base(
    max_turns=5,
    candidates=4,
    agent=SAMPLING,
    user=SAMPLING,
    training=FineTuning.from_base(learning_rate=1e-3, batch_size=1, epochs=1.0),
)
SITUATIONS = 17
KILLED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
import test_with_real_engine as game
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import from_rows, to_rows

base, agent, user, scratch = map(Path, sys.argv[1:5])
engine = game.open_engine(*map(Policy.open, (base, agent, user)))
sample, left = engine.sample, int(sys.argv[6])

def killed(*given, **named):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample(*given, **named)

engine.sample = killed
game.run_search(engine, Policy.open(agent), Policy.open(user), scratch, **json.loads(sys.argv[5]))
"""


class WordySelector:
    name = "wordy"

    def expect(self, choices: int) -> None:
        pass

    def select(self, choices: list[Choice]) -> list[int | NoChoice]:
        return [max(range(len(choice.candidates)), key=lambda j: choice.candidates[j]) for choice in choices]


def open_engine(base: Policy, agent: Policy, user: Policy) -> Any:
    from sage_dialog.inference.transformers.engine import TransformersEngine

    return TransformersEngine(base, [agent, user], seed=0, threads=1)


def run_search(
    engine: Any, agent: Policy, user: Policy, scratch: Path, order: int = 1, **config: Any
) -> tuple[dict[str, Any], ...]:
    """Run a search and return both tables as rows by situation."""
    rows = [
        {"situation_id": f"s{number}", "split": "train", "emotion": "sad", "text": " ".join(["w1", f"w{number}"] * 3)}
        for number in range(SITUATIONS)
    ]
    table = from_rows(rows[::order], schemas.SITUATIONS)
    # Random weights write no blocks, so both play without.
    agent, user = (dataclasses.replace(p, card=dataclasses.replace(p.card, blocks=False)) for p in (agent, user))
    tables = search(engine, agent, user, table, CONFIG.model_copy(update=config), {}, WordySelector(), 0, scratch)
    return tuple(
        {name: list(group) for name, group in itertools.groupby(to_rows(found), lambda row: row["situation_id"])}
        for found in tables
    )


@pytest.fixture(scope="module")
def played(
    base: Policy, adapters: tuple[Policy, Policy], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    engine = open_engine(base, *adapters)

    def play(scratch: Path | None = None, **given: Any) -> tuple[dict[str, Any], ...]:
        return run_search(engine, *adapters, scratch or tmp_path_factory.mktemp("scratch"), **given)

    return play


@pytest.fixture(scope="module")
def complete(played: Callable[..., Any]) -> tuple[dict[str, Any], ...]:
    found: tuple[dict[str, Any], ...] = played(shard_size=SITUATIONS, shards_at_once=1)
    ends = [rows[0]["outcome"] for rows in found[1].values()]
    assert ends.count("turn limit") >= 5 and len(set(ends)) > 1  # dialogues of different lengths
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shard_size", "at_once", "order", "situations"), [(1, 1, -1, 4), (1, 3, 1, 4), (4, 2, -1, 9), (16, 3, 1, 17)]
)
def test_the_rows_are_the_same_in_any_shards_at_once_and_any_order(
    played, complete, shard_size: int, at_once: int, order: int, situations: int
) -> None:
    found = played(shard_size=shard_size, shards_at_once=at_once, order=order, situations=situations)
    assert len(found[1]) == situations
    assert found == restrict_to(complete, found)


def test_the_fingerprint_depends_on_tokenizer_memory_and_threads(base: Policy, tmp_path: Path) -> None:
    import torch

    from sage_dialog.inference.transformers.engine import TransformersEngine

    def fingerprint_inputs(of: Policy = base, **given: Any) -> str:
        return json.dumps(dict(TransformersEngine(of, [], seed=0, device="cpu", **given).fingerprint_inputs))

    copy = Policy.open(shutil.copytree(base.path, tmp_path / "sage_0"))
    assert fingerprint_inputs(copy) == fingerprint_inputs() != fingerprint_inputs(memory_gb=2.0)
    tokenizer = copy.path / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert fingerprint_inputs(copy) != fingerprint_inputs()
    threads, before = torch.get_num_threads(), fingerprint_inputs()
    try:
        assert fingerprint_inputs(threads=threads + 1) != before
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_after_a_kill_the_rows_are_the_same(played, complete, base, adapters, tmp_path) -> None:
    config = {"shard_size": 2, "shards_at_once": 2, "situations": 6}
    script = KILLED.format(here=str(Path(__file__).parent))
    paths = [str(policy.path) for policy in (base, *adapters)]
    command = [sys.executable, "-c", script, *paths, str(tmp_path), json.dumps(config), "24"]
    killed = subprocess.run(command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    kept = {shard: shard.stat().st_mtime_ns for shard in tmp_path.rglob("shard-*")}
    assert 0 < len(kept) < 3
    found = played(tmp_path, **config)
    assert found == restrict_to(complete, found)
    assert {shard: shard.stat().st_mtime_ns for shard in kept} == kept


def restrict_to(complete: tuple[dict[str, Any], ...], found: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Return the rows of the complete search for the situations that were played."""
    return tuple({name: table[name] for name in played} for table, played in zip(complete, found, strict=True))
