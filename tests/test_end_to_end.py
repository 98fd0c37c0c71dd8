"""All six pipelines at test size, from a generated world to the report, and a replay in another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[1]


def _kedro(data: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "kedro", "run", "--env", "test", *arguments]
    completed = subprocess.run(
        command, cwd=PROJECT, env=os.environ | {"SAGE_DATA": str(data)}, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    return completed.stdout + completed.stderr


def _file(data: Path, name: str) -> Path:
    """Return the only version of a catalog file."""
    (path,) = data.glob(f"0*/{name}/*/{name}")
    return path


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("demo_run")
    _kedro(data, "--pipelines", "demo,self_play_rl")
    return data


def test_plain_pandas_opens_every_table(demo_run):
    tables = {path.parent.parent.name: pd.read_parquet(path) for path in demo_run.glob("0*/*.parquet/*/*.parquet")}
    expected = {
        "dialogues", "filter_report", "situations", "annotations", "sft_conversations", "sft_conversations_plain",
        "candidates_1", "trajectories_1", "candidates_2", "trajectories_2", "dpo_pairs", "judge_votes", "win_rates",
        "emotion_accuracy", "action_distribution", "reply_statistics", "truth_scores", "truth_win_rates",
        "benchmark_scores", "rl_comparisons", "rl_dialogues", "rl_advantages",
    }  # fmt: skip
    assert {f"{name}.parquet" for name in expected} <= set(tables)
    for name in expected:
        assert len(tables[f"{name}.parquet"]), f"{name} is empty"
    votes = tables["judge_votes.parquet"]
    assert set(votes["order"]) == {"ab", "ba"}
    candidates = tables["candidates_1.parquet"]
    assert candidates[candidates["chosen"]]["valid"].all()
    assert tables["rl_dialogues.parquet"]["reward"].between(0, 1).all()


def test_plain_transformers_and_peft_open_every_policy(demo_run):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = _file(demo_run, "sage_0")
    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "My boss took the roses."}], add_generation_prompt=True, return_tensors="pt"
    )
    for name in ("sage_1", "sage_1_plain", "sage_2", "sage_3", "sage_dpo", "sage_rl"):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), _file(demo_run, name))
        assert model.generate(**chat, max_new_tokens=4).shape[1] > chat["input_ids"].shape[1]


def test_no_training_stage_reads_the_truth(demo_run):
    from kedro.framework.project import pipelines
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    for name in ("data_processing", "sac_augmentation", "sft", "self_play", "preference", "evaluation", "self_play_rl"):
        assert "world_truth" not in pipelines[name].datasets()


def test_the_report_names_the_offline_roles_and_their_limits(demo_run):
    report = _file(demo_run, "report.html").read_text()
    assert "offline-rules-judge" in report
    assert "world truth" in report
    assert "evidence about language models" in report


def test_a_replay_of_an_iteration_and_of_preference_tuning_gives_the_same_bytes(demo_run, tmp_path):
    shutil.copytree(demo_run, tmp_path / "data")
    command = [sys.executable, "-m", "kedro", "sage", "replay", "latest", "--env", "test", "--yes", "--json"]
    completed = subprocess.run(
        [*command, "--node", "preference.train_sage_dpo", "--node", "iteration_1"],
        cwd=PROJECT,
        env=os.environ | {"SAGE_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr[-3000:]
    outputs = {output["dataset"] for output in json.loads(completed.stdout)["outputs"] if output["identical"]}
    assert outputs == {
        "candidates_1", "trajectories_1", "sage_2", "training_log_sage_2", "training_rejects_sage_2",
        "sage_dpo", "training_log_sage_dpo", "training_rejects_sage_dpo",
    }  # fmt: skip
