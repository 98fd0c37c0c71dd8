"""`kedro sage iterate` with an engine, a trainer and a judge that are scripts, also in a process that kills itself."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from click.testing import CliRunner, Result
from scripted_engine import ScriptedEngine

from sage_dialog import schemas
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import from_rows
from sage_dialog.roles.protocols import Comparison, Verdict
from sage_dialog.sac import Chain, Intent, render

CATALOG = """
engine: {type: sage_dialog.datasets.engines.EngineDataset, engine: iterating.Writer}
judges: {type: sage_dialog.datasets.roles.RolePanel, roles: {scripted: {role: iterating.ScriptedJudge}}}
"""
STRENGTHS = {"sage_1": 1, "sage_2": 2, "sage_3": 0, "sage_4": 5}
"""By which the judge decides; equal ones are ties."""
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
PARAMS = (
    "self_play.situations=3,self_play.max_turns=2,self_play.candidates=2,self_play.shard_size=2,evaluation.exchanges=1"
)


class Writer(ScriptedEngine):
    """An engine whose replies name the policy and the sample, and which notes what is played."""

    played: list[tuple[str, str]] = []  # noqa: RUF012  # (policy, first message)

    def __init__(self, base: Policy, policies: Sequence[Policy], seed: int, threads: int | None) -> None:
        weights = {policy.name: policy.revision() for policy in (base, *policies)}
        super().__init__(self._write, fingerprint_inputs={"weights": weights, "seed": seed})

    def _write(self, policy: str, prompt: Any, number: int) -> str:
        self.played.extend((policy, message["content"]) for message in prompt.messages if message["role"] == "user")
        intent = Intent("comfort", "calm", ("dogs",))
        return render(Chain(intent, intent, f"I am {policy} and this is sample {number}."))


class ScriptedJudge:
    name = "scripted"

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
        for comparison in comparisons:
            first, second = (STRENGTHS[each[1].text.split()[2]] for each in (comparison.first, comparison.second))
            yield Verdict("tie" if first == second else "first" if first > second else "second")


def train(name: str, base: Policy, agent: Policy, conversations: Any, *arguments: Any, **_: Any) -> Any:
    """Return a policy whose weights are a digest of what it was trained on, in place of `fine_tune`."""
    path = Path(arguments[-1]) / "trained" / name
    path.mkdir(parents=True, exist_ok=True)
    weights = hashlib.sha256((agent.revision() + conversations.to_json()).encode()).hexdigest()
    (path / "adapter_model.safetensors").write_text(weights)
    card = PolicyCard(name, "adapter", True, "sage_0", base.revision(), agent.name, agent.revision())
    tables = (from_rows([], schemas.TRAINING_LOG), from_rows([], schemas.TRAINING_REJECTS))
    return *tables, Policy.write_card(path, card)


def prepare(folder: Path) -> None:
    """Write the configuration, `sage_0` and `sage_1` to a project with situations."""
    (folder / "conf/test/catalog.yml").write_text(CATALOG)
    for name, kind in (("sage_0", "base"), ("sage_1", "adapter")):
        path = folder / f"data/06_models/{name}/2026-01-01T00.00.00.000Z/{name}"
        path.mkdir(parents=True)
        (path / "adapter_model.safetensors").write_text(name)
        Policy.write_card(path, PolicyCard(name, kind, True, "sage_0", "revision"))


def iterate(folder: Path, *options: str) -> Result:
    """Run the command; options follow those of a small self-play."""
    from sage_dialog.commands.iterate import iterate as command

    trainer = ModuleType("sage_dialog.training.sft")
    trainer.fine_tune = train  # type: ignore[attr-defined]  # the real one imports torch
    with patch.dict(sys.modules, {trainer.__name__: trainer}):
        params = ",".join([PARAMS, *options])
        return CliRunner().invoke(
            command, ["--env", "test", "--params", params], obj=SimpleNamespace(project_path=folder)
        )


def iterate_and_kill(project: Path, folder: Path, kill_at: int) -> None:
    """Run the command in this process, which kills itself at an event of the file system below `folder/data`."""
    from kedro.framework.startup import bootstrap_project

    os.environ["SAGE_DATA"] = str(folder / "data")
    bootstrap_project(project)
    count, below = itertools.count(), str(folder / "data")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(below) and next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with (folder / "log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        result = iterate(folder)
        print(result.output, result.exception)
    (folder / "events").write_text(str(next(count)))


def made(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of the latest versions that the command makes."""
    found = {}
    for entry in sorted([*folder.glob("data/0[6-8]*/*")]):
        latest = max(path for path in entry.iterdir() if not path.name.startswith("."))
        for file in sorted(path for path in latest.rglob("*") if path.is_file()):
            found[f"{entry.name}/{file.relative_to(latest)}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
