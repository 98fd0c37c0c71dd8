"""A whole run in its own process, which kills itself at a given event of the file system."""

from __future__ import annotations

import gc
import hashlib
import itertools
import logging
import os
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripted_engine import ScriptedEngine

from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.sac import Chain, Intent, render

PROJECT = Path(__file__).parents[2]
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
TEMPLATE = (
    "{% for message in messages %}{{ '<go>' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + '<end>' }}{% endgeneration %}{% else %}{{ message['content'] + '<end>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<go>' }}{% endif %}"
)
WORDS = ("that", "must", "be", "hard", "tell", "me", "more", "of", "dogs", "and", "the", "roses")
PIPELINES = ["data_processing", "sac_augmentation", "sft", "self_play", "preference"]
SMALL: dict[str, Any] = {
    "threads": 1,
    "data_processing": {"workers": 1},
    "microworld": {"threads": 90},
    "sft": {"lora": {"r": 2, "alpha": 4}, "training": {"max_steps": 2}},
    "self_play": {
        "situations": 3, "max_turns": 3, "candidates": 2, "shard_size": 1, "training": {"max_steps": 2},
    },
    "preference": {"pairs": 4},
}  # fmt: skip
"""Parameters of a run up to the last policy within seconds, with scripted replies."""
GOALS: dict[str, Any] = {
    "threads": 1,
    "imagination": {"personas": 12},
    "microworld": {"goal_documents": 40, "goal_base": {"vocabulary": 600, "hidden": 16, "steps": 2}},
    "offline_rl": {
        "training": {"max_steps": 2}, "refinement": {"max_steps": 1}, "critic": {"steps": 4, "batch_size": 4},
        "preference": {"pairs": 4, "max_steps": 1}, "situations": 1,
    },
}  # fmt: skip
"""Parameters of the same of goal-directed policies."""


class Writer(ScriptedEngine):
    """An engine whose replies depend on the policy's weights, the prompt and the sample's number only."""

    def __init__(self, base: Policy, policies: Sequence[Policy], seed: int, threads: int | None) -> None:
        self._weights = {policy.name: policy.revision() for policy in (base, *policies)}
        self._seed = seed
        super().__init__(self._reply, fingerprint_inputs={"weights": self._weights})

    def _reply(self, policy: str, prompt: Prompt, number: int) -> Sample:
        choices = random.Random(repr((self._weights[policy], self._seed, prompt, number)))

        def intent() -> Intent:
            emotions, topics = ("calm", "sad", "playful"), ("music", "dogs", "family dinner")
            return Intent(choices.choice(("comfort", "sharing")), choices.choice(emotions), (choices.choice(topics),))

        text = " ".join(choices.choices(WORDS, k=9))
        return Sample(render(Chain(intent(), intent(), f"{text.capitalize()}.")), 30, FinishReason.STOP)


def write_world(folder: Path) -> None:
    """Write raw data and a base to `folder/data`, as an earlier run would, and the configuration."""
    import torch
    from block_writers import byte_level
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    write_configuration(folder)
    begin(folder)
    session_run(folder, ["microworld"], SMALL, node_names=[_node("microworld", "write_raw_data")])
    path = folder / "data/06_models/sage_0/2026-01-01T00.00.00.000Z/sage_0"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(True), eos_token="<end>", pad_token="<end>", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    Policy.write_card(path, PolicyCard("sage_0", "base", True, "sage_0", weights_revision(path)))


def write_configuration(folder: Path) -> None:
    """Write the configuration to `folder/conf`, with scripted replies."""
    shutil.copytree(PROJECT / "conf", folder / "conf")
    engine = "engine: {type: sage_dialog.datasets.engines.EngineDataset, engine: killed_runs.Writer}\n"
    (folder / "conf/test/catalog.yml").write_text(engine)


def run(folder: Path, kill_at: int | None) -> None:
    """Run the pipelines up to the last policy, as `watched_run` does."""
    watched_run(folder, kill_at, PIPELINES, SMALL, to_outputs=["sage_dpo"])


def run_goals(folder: Path, kill_at: int | None) -> None:
    """Run `goal_demo`, as `watched_run` does."""
    watched_run(folder, kill_at, ["goal_demo"], GOALS)


def watched_run(
    folder: Path, kill_at: int | None, pipelines: list[str], parameters: dict[str, Any], **selection: Any
) -> None:
    """Run pipelines on `folder/data`, with the output in `folder/log`.

    The process kills itself at event `kill_at` of the file system below `folder/data`, or writes the number of events
    to `folder/events`.
    """
    begin(folder)
    count, below = itertools.count(), str(folder / "data")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(below) and next(count) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with (folder / "log").open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        sys.addaudithook(watch)
        try:
            session_run(folder, pipelines, parameters, **selection)
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    (folder / "events").write_text(str(next(count)))


def begin(folder: Path) -> None:
    """Set up the project in this process, with its own data and configuration."""
    import torch
    from kedro.framework.startup import bootstrap_project

    gc.freeze()  # the garbage collector skips what was imported before
    os.environ["SAGE_DATA"] = str(folder / "data")
    torch.set_num_threads(1)
    bootstrap_project(PROJECT)
    logging.disable(logging.INFO)


def session_run(folder: Path, pipelines: list[str], parameters: dict[str, Any], **selection: Any) -> None:
    """Run pipelines as `kedro run --env test --pipelines …` does."""
    from kedro.framework.session import KedroSession

    with KedroSession.create(
        project_path=folder, conf_source=str(folder / "conf"), env="test", runtime_params=parameters
    ) as session:
        session.run(pipeline_names=pipelines, **selection)


def made(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of the latest versions of all tables and policies."""
    found = {}
    for entry in sorted((folder / "data").glob("0[2-7]*/*")):
        latest = max(path for path in entry.iterdir() if not path.name.startswith("."))
        for file in sorted(path for path in latest.rglob("*") if path.is_file()):
            found[f"{entry.name}/{file.relative_to(latest)}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _node(pipeline: str, suffix: str) -> str:
    from kedro.framework.project import pipelines

    return next(node.name for node in pipelines[pipeline].nodes if node.name.endswith(suffix))
