"""Errors before a run starts: what is wrong, where, and what to do."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from omegaconf import OmegaConf

from sage_dialog.hooks.errors import RunRefused, RunStopped
from sage_dialog.hooks.validation import validate_parameters
from sage_dialog.microworld.reddit import months
from sage_dialog.microworld.world import load_world

OpenSession = Callable[..., KedroSession]


def nested(dotted: str, value: object) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"{dotted}={value}"]))


def refusal(open_session: OpenSession, pipeline: str, parameters: dict[str, Any] | None = None, **run: Any) -> str:
    with open_session(**(parameters or {})) as session, pytest.raises(RunRefused) as refused:
        session.run(pipeline_names=[pipeline], **run)
    return refused.value.message


def test_missing_raw_data_names_the_files_and_the_command_that_makes_them(
    open_session: OpenSession, tmp_path: Path
) -> None:
    message = refusal(open_session, "data_processing")
    assert f"reddit_dumps: there is no RC_* and no RS_* in {tmp_path}/data/test/01_raw/reddit" in message
    assert "empathetic_dialogues: there is no train.csv* and no valid.csv* and no test.csv*" in message
    assert "`kedro run --pipelines microworld`" in message


def test_a_role_that_cannot_be_made_is_refused_before_anything_runs(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("sage_dialog.roles.offline.judge.OfflineJudge")
    message = refusal(open_session, "evaluation")
    assert "  judges: no role can be made from sage_dialog.roles.offline.judge.OfflineJudge (no arguments): " in message
    assert "  selector: " not in message


@pytest.mark.parametrize(
    ("pipeline", "dataset", "maker"),
    [
        ("sac_augmentation", "dialogues", "data_processing"),
        ("sage_1", "sft_conversations", "sac_augmentation"),
        ("sage_1", "sage_0", "microworld --to-outputs sage_0"),
        ("sage_2", "sage_1", "sage_1"),
        ("sage_3", "sage_2", "sage_2"),
        ("preference", "trajectories_2", "sage_3"),
        ("evaluation", "sage_dpo", "sage_dpo"),
    ],
)
def test_a_missing_version_names_the_pipeline_that_makes_it(
    open_session: OpenSession, pipeline: str, dataset: str, maker: str
) -> None:
    lines = refusal(open_session, pipeline).splitlines()
    line = next(line for line in lines if line.startswith(f"  {dataset}:"))
    assert f"`kedro run --pipelines {maker}`" in line


def test_a_missing_version_is_an_error_with_the_existing_ones(open_session: OpenSession, tmp_path: Path) -> None:
    folder = tmp_path / "data/test/02_intermediate/dialogues.parquet"
    for version in ("2026-01-01", "2026-01-02"):
        (folder / version).mkdir(parents=True)
        (folder / version / "dialogues.parquet").touch()
    message = refusal(open_session, "sac_augmentation", load_versions={"dialogues": "2025-12-31"})
    assert "there is no version 2025-12-31" in message
    assert "2026-01-02, 2026-01-01" in message


@pytest.mark.parametrize(
    ("dotted", "value", "error"),
    [
        ("sft.training.batchsize", 3, "sft.training.batchsize: unknown, did you mean batch_size? Known here: "),
        ("nonsense", 1, "nonsense: unknown. Known here: corpora, data_processing"),
        ("evaluation.split", "train", "evaluation.split: Input should be 'valid' or 'test', found 'train'"),
        ("self_play.candidates", 1, "self_play.candidates: Input should be greater than or equal to 2, found 1"),
        ("seed", "abc", "seed: Input should be a valid integer"),
        ("microworld.situations.tran", 3, "microworld.situations.tran: Input should be 'train', 'valid' or 'test'"),
        ("preference", 3, "preference: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_before_anything_runs(
    open_session: OpenSession, tmp_path: Path, dotted: str, value: object, error: str
) -> None:
    message = refusal(open_session, "microworld", nested(dotted, value))
    assert error in message
    assert "Given by --params." in message
    assert not (tmp_path / "data").exists()


def test_all_invalid_parameters_are_reported_at_once(configured: Path) -> None:
    raw = OmegaConf.to_container(
        OmegaConf.merge(*(OmegaConf.load(file) for file in sorted(configured.glob("conf/base/parameters_*.yml"))))
    )
    raw["sft"]["training"]["epochs"] = 0
    raw["sac_augmentation"]["mix"][1]["sise"] = 3
    raw["data_processing"]["rule_sets"] = {"paper": {"min_turn": 3}}
    del raw["preference"]["learning_rate"]
    with pytest.raises(RunRefused) as refused:
        validate_parameters(raw, env="paper")
    message = refused.value.message
    assert "sft.training.epochs: Input should be greater than 0, found 0" in message
    assert "See conf/base/parameters_sft.yml and conf/paper/parameters_sft.yml." in message
    assert "sac_augmentation.mix.1.sise: unknown, did you mean size?" in message
    assert "data_processing.rule_sets.paper.min_turn: unknown, did you mean min_turns?" in message
    assert "preference.learning_rate: missing" in message


@pytest.mark.parametrize(
    ("rule", "value", "error"),
    [
        ("max_turns", 4, ": max_turns = 4 is below min_turns = 5: no path would be kept"),
        ("blocked_words", ["fine", ""], ".blocked_words: '' is no word or phrase; write words with single spaces"),
        ("blocked_words", [" so "], ".blocked_words: ' so ' is no word or phrase"),
        ("blocked_subreddits", ["aww", " "], ".blocked_subreddits: ' ' is no name of a subreddit"),
        (
            "blocked_subreddits",
            ["r/aww"],
            ".blocked_subreddits: 'r/aww' is no name of a subreddit; write it without r/",
        ),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(open_session: OpenSession, rule: str, value: Any, error: str) -> None:
    rule_sets = {"paper": {rule: value}}
    message = refusal(open_session, "microworld", {"data_processing": {"rule_sets": rule_sets}})
    assert f"data_processing.rule_sets.paper{error}" in message


def test_a_pair_of_unknown_policies_is_refused_before_anything_runs(open_session: OpenSession) -> None:
    pairs = [["sage_0", "sage_1"], ["sage_1", "sage_9"], ["sage_0", "sage_1"]]
    message = refusal(open_session, "microworld", {"evaluation": {"pairs": pairs}})
    assert "evaluation.pairs.1: no policy is called 'sage_9', did you mean sage_" in message
    assert "Known: sage_0, sage_1, sage_1_plain, sage_2, sage_3, sage_dpo, sage_rl. " in message
    assert "evaluation.pairs.2: sage_0 against sage_1 is listed twice. Given by --params." in message


def test_an_unknown_policy_of_benchmarks_is_refused_before_anything_runs(open_session: OpenSession) -> None:
    benchmarks = {"policies": ["sage_0", "sage_dp0", "sage_0"]}
    message = refusal(open_session, "microworld", {"evaluation": {"benchmarks": benchmarks}})
    assert "benchmarks.policies.1: no policy is called 'sage_dp0', did you mean sage_dpo? Known: sage_0," in message
    assert "evaluation.benchmarks.policies.2: sage_0 is listed twice. Given by --params." in message


def test_a_blended_mix_holds_nothing_out(open_session: OpenSession) -> None:
    blend = {"sac_augmentation": {"blend": {"sources": ["listener"], "others": 1, "max_tokens": 2048}}}
    held_out = {stage: {"training": {"held_out": 0.1}} for stage in ("sft", "self_play")}
    message = refusal(open_session, "microworld", {**blend, **held_out})
    for stage in held_out:
        assert f"{stage}.training.held_out: a blended mix cannot hold out 0.1 of itself; set it to 0" in message


def test_weights_in_4_bits_are_not_trained(open_session: OpenSession) -> None:
    stages = {"self_play": {"training": {"quantization": "nf4"}}, "preference": {"quantization": "nf4"}}
    message = refusal(open_session, "microworld", {"sft": {"lora": None}, **stages})
    for place in ("self_play.training", "preference"):
        assert f"{place}.quantization: sft.lora is null: all weights are trained, which nf4 rules out" in message
    message = refusal(open_session, "microworld", {"sft": {"lora": None, "training": {"quantization": "nf4"}}})
    assert "sft.training.quantization: sft.lora is null: all weights are trained, which nf4 rules out" in message
    experts = {"sft": {"lora": {"target_parameters": ["experts.down_proj"]}}}
    message = refusal(open_session, "microworld", {**experts, **stages})
    for place in ("self_play.training", "preference"):
        assert f"{place}.quantization: nf4 packs sft.lora.target_parameters in 4 bits" in message


def test_patience_needs_held_out_dialogues(open_session: OpenSession) -> None:
    message = refusal(open_session, "microworld", {"sft": {"training": {"patience": 2}}})
    assert "sft.training: patience needs held-out dialogues to measure the loss on; set held_out" in message


def test_missing_trajectories_of_the_mix_are_refused_before_anything_runs(open_session: OpenSession) -> None:
    mix = [{"name": "listener"}, {"name": "played", "kind": "trajectories", "of": "trajectories_7"}]
    message = refusal(open_session, "sac_augmentation", {"sac_augmentation": {"mix": mix}})
    assert "  sac_augmentation.mix, source 'played': There is no trajectories_7 in " in message


def test_a_pin_on_what_the_run_writes_is_refused(open_session: OpenSession) -> None:
    message = refusal(open_session, "self_play", load_versions={"sage_2": "2026-01-01", "sage_1": "2026-01-01"})
    assert message.startswith("--load-versions pins sage_2, which this run writes itself")
    assert "--from-inputs sage_2" in message


def test_the_command_line_shows_the_message_without_a_traceback(configured: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(configured / "src"), "SAGE_DATA": str(tmp_path)}
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", "data_processing"]
    done = subprocess.run(command, cwd=configured, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Missing inputs; the run was not started:")
    assert f"{tmp_path}/01_raw/reddit" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_scratch_lies_in_the_project_wherever_the_run_starts(
    open_session: OpenSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with open_session() as session:
        catalog = session.load_context().catalog
    assert catalog.load("params:scratch") == str(tmp_path / "data/test/scratch")


def test_a_truncated_dump_ends_the_run_with_a_message(open_session: OpenSession, tmp_path: Path) -> None:
    folder = tmp_path / "data/test/01_raw/reddit"
    folder.mkdir(parents=True)
    for name, content in months(load_world(), 60, seed=3).items():
        (folder / name).write_bytes(content if name != "RC_2012-02.bz2" else content[: len(content) // 10])
    with open_session(data_processing={"workers": 1}) as session, pytest.raises(RunStopped) as stopped:
        session.run(pipeline_names=["data_processing"], node_names=["data_processing.make_dialogues"])
    assert stopped.value.message.startswith(
        "data_processing.make_dialogues stopped: RC_2012-02.bz2 breaks off: it ends inside a frame"
    )
    assert "data_processing.max_unread_share = 0.01" in stopped.value.message
