"""The evaluation pipeline from rollouts to report, and the notebook that opens what it leaves."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pyarrow as pa
import pytest
from kedro.framework.session import KedroSession
from nbclient import NotebookClient

from sage_dialog import schemas
from sage_dialog.config import Evaluation
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import DataFrame, from_arrow, from_rows
from sage_dialog.evaluation.report.report import Contents
from sage_dialog.pipelines.evaluation import create_pipeline
from sage_dialog.pipelines.evaluation.nodes import by_policy, check_judges, count_wins, rank_policies
from sage_dialog.roles.offline.judge import OfflineJudge
from sage_dialog.roles.offline.selector import OfflineSelector

POLICIES = ("sage_0", "sage_1", "sage_2", "sage_dpo")


@pytest.fixture
def policies(tmp_path: Path) -> dict[str, Policy]:
    made = {}
    for name in POLICIES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(name.encode())
        kind, parent = ("base", None) if name == "sage_0" else ("adapter", "sage_0")
        card = PolicyCard(name, kind, name != "sage_0", "sage_0", "base-revision", parent)
        made[name] = Policy.write_card(tmp_path / name, card)
    return made


def training_log() -> pa.Table:
    measured = {"epoch": 0.5, "tokens": 900, "loss": 1.5}
    rows = [{"step": step, "split": "train", **measured} for step in (1, 2)]
    return pa.Table.from_pylist(rows, schema=schemas.TRAINING_LOG)


@pytest.fixture
def finished(
    contents: Contents, rollouts: DataFrame, policies: dict[str, Policy], config: Evaluation
) -> dict[str, Any]:
    """What a run of everything behind the rollouts saves."""
    data: dict[str, Any] = {
        **policies,
        **{f"rollouts_{policy}": from_arrow(table) for policy, table in by_policy(rollouts).items()},
        "situations": contents.situations,
        "filter_report": contents.filter_report,
        "filter_figure": contents.filter_figure,
        **{f"candidates_{k}": contents.candidates for k in (1, 2, 3)},
        "trajectories_3": contents.trajectories,
        **{f"training_log_{policy}": training_log() for policy in POLICIES[1:]},
        **{f"training_rejects_{policy}": contents.training_rejects[policy] for policy in POLICIES[1:]},
        "external_models": {},
        "human_votes": {},
        "external_rollouts": from_rows([], schemas.ROLLOUTS),
        "annotator": OfflineSelector(),
        "selector": OfflineSelector(),
        "judges": [OfflineJudge()],
        "params:evaluation": config,
        "params:seed": 3,
        "params:threads": 1,
        "benchmark_files": {},
    }
    given = set(data)
    for node in create_pipeline(POLICIES, iterations=3).nodes:  # in the order in which they can run
        if not node.name.startswith("rollout_"):
            data |= node.run({name: data[name] for name in node.inputs})
    return {name: data[name] for name in set(data) - given}


def test_every_output_is_there_and_holds_its_schema(finished: dict[str, Any]) -> None:
    tables = {
        "policy_cards": schemas.POLICIES,
        "model_votes": schemas.JUDGE_VOTES,
        "judge_votes": schemas.JUDGE_VOTES,
        "vote_rejects": schemas.VOTE_REJECTS,
        "win_rates": schemas.WIN_RATES,
        "ranking": schemas.RANKING,
        "judge_checks": schemas.JUDGE_CHECKS,
        "length_control": schemas.LENGTH_CONTROL,
        "judge_agreement": schemas.JUDGE_AGREEMENT,
        "self_preference": schemas.SELF_PREFERENCE,
        "sample_sizes": schemas.SAMPLE_SIZES,
        "emotion_accuracy": schemas.EMOTION_ACCURACY,
        "mapped_emotions": schemas.MAPPED_EMOTIONS,
        "unmapped_emotions": schemas.UNMAPPED_EMOTIONS,
        "emotion_confusion": schemas.EMOTION_CONFUSION,
        "emotion_top_k": schemas.EMOTION_TOP_K,
        "action_transitions": schemas.ACTION_TRANSITIONS,
        "diversity": schemas.DIVERSITY,
        "failure_modes": schemas.FAILURE_MODES,
        "failure_examples": schemas.FAILURE_EXAMPLES,
        "action_distribution": schemas.ACTION_DISTRIBUTION,
        "reply_statistics": schemas.REPLY_STATISTICS,
        "benchmark_scores": schemas.BENCHMARK_SCORES,
    }
    assert {name: finished[name].schema for name in tables} == tables
    # With one judge, and no truth, there is nobody to agree with and no kin of anybody. All emotions are labels, and
    # twelve situations make one group, which has no interval. There are no benchmark files.
    empty = {name for name in tables if not finished[name].num_rows}
    assert empty == {
        "vote_rejects", "judge_agreement", "self_preference", "unmapped_emotions", "diversity", "benchmark_scores",
    }  # fmt: skip
    assert finished["win_rate_figure"].startswith(b"\x89PNG") and finished["action_figure"].startswith(b"\x89PNG")
    assert finished["training_figure"].startswith(b"\x89PNG")
    assert finished["report"].startswith("<!doctype html>") and "offline-rules-judge" in finished["report"]


def test_policies_without_blocks_predict_no_emotion(finished: dict[str, Any]) -> None:
    assert set(finished["emotion_accuracy"]["policy"].to_pylist()) == {"sage_1", "sage_2", "sage_dpo"}
    assert set(finished["reply_statistics"]["policy"].to_pylist()) == set(POLICIES)


def test_the_cards_carry_the_revision_of_the_weights(finished: dict[str, Any], policies: dict[str, Policy]) -> None:
    revisions = dict(zip(*(finished["policy_cards"][key].to_pylist() for key in ("policy", "revision")), strict=True))
    assert revisions["sage_0"] == "base-revision"
    assert revisions["sage_2"] == policies["sage_2"].revision() != revisions["sage_1"]


def test_each_policy_is_played_against_the_same_user(contents: Contents) -> None:
    pipeline = create_pipeline(POLICIES, iterations=3, external_scores=True)
    played = {node.outputs[0]: node.inputs[:3] for node in pipeline.nodes if node.name.startswith("rollout_")}
    ours = {f"rollouts_{policy}": ["sage_0", policy, "sage_1"] for policy in POLICIES}
    assert played == ours | {"external_rollouts": ["sage_0", "sage_1", "situations"]}
    truth = {"truth_scores", "truth_votes", "truth_win_rates"}
    assert truth | {"candidates_3", "trajectories_3"} <= pipeline.inputs()
    assert not truth & create_pipeline(POLICIES, iterations=3).inputs()


def test_each_part_of_the_report_is_the_table_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = create_pipeline(POLICIES, iterations=3, external_scores=True)
    (node,) = (node for node in pipeline.nodes if node.name == "write_report")
    written: list[Contents] = []
    monkeypatch.setattr(
        "sage_dialog.evaluation.report.report.render_report", lambda shown: written.append(shown) or "html"
    )
    role = SimpleNamespace(name="some role")
    given = {"annotator": role, "selector": role, "judges": [role]}
    given |= {"rollouts": from_rows([], schemas.ROLLOUTS)}
    node.run({name: name for name in node.inputs} | given)
    (contents,) = written
    trained = POLICIES[1:]
    renamed = {
        "config": "params:evaluation",
        "seed": "params:seed",
        "roles": dict.fromkeys(("annotator", "selector"), "some role"),
        "judges": ["some role"],
        "policies": "policy_cards",
        "rollouts": {},
        "training_rejects": {policy: f"training_rejects_{policy}" for policy in trained},
        "candidates": "candidates_3",
        "trajectories": "trajectories_3",
        **{f"outside_{table}": f"truth_{table}" for table in ("scores", "win_rates", "votes")},
    }
    shown = {field.name: getattr(contents, field.name) for field in fields(contents)}
    assert shown == {name: name for name in shown} | renamed


def test_every_trained_policy_shows_its_training() -> None:
    nodes = {node.name: node for node in create_pipeline(POLICIES, iterations=3).nodes}
    assert nodes["draw_training"].inputs == [f"training_log_{policy}" for policy in ("sage_1", "sage_2", "sage_dpo")]
    assert {f"training_rejects_{policy}" for policy in ("sage_1", "sage_2", "sage_dpo")} < set(
        nodes["write_report"].inputs
    )


def test_the_truth_is_compared_with_the_judges(contents: Contents, rollouts: DataFrame) -> None:
    votes = contents.judge_votes
    truth = pa.Table.from_pylist(
        [{**row, "judge": "world truth", "vote": "a"} for row in votes.to_pylist()], schema=schemas.JUDGE_VOTES
    )
    checks, lengths, agreement, kin = check_judges(
        votes, contents.policies, rollouts, contents.config, seed=3, external_votes=truth
    )
    assert [(row["judge_a"], row["judge_b"]) for row in agreement.to_pylist()] == [
        ("offline-test-judge", "world truth")
    ]
    for table in (checks, lengths, kin):
        assert "world truth" not in table["judge"].to_pylist()


def test_every_table_goes_by_the_rule_of_the_parameters(contents: Contents, rollouts: DataFrame) -> None:
    torn = [{**row, "vote": "b" if row["order"] == "ab" else "tie"} for row in contents.judge_votes.to_pylist()]
    votes = pa.Table.from_pylist([*torn, *({**row, "judge": "k"} for row in torn)], schema=schemas.JUDGE_VOTES)
    shown = {}
    for rule in ("agreement", "half"):
        config = contents.config.model_copy(update={"outcome_rule": rule})
        _, lengths, agreement, _ = check_judges(votes, contents.policies, rollouts, config, seed=3)
        shown[rule] = (
            sum(count_wins(votes, config, seed=3)["wins_b"].to_pylist()),
            max(rank_policies(votes, config, seed=3)["rank"].to_pylist()),
            sum(lengths["n"].to_pylist()),
            agreement["decided"].to_pylist(),
        )
    assert shown == {"agreement": (0, 1, 0, [0]), "half": (72, 4, 72, [36])}


def test_the_same_votes_give_the_same_tables_and_another_seed_other_intervals(contents: Contents) -> None:
    first, again, other = (count_wins(contents.judge_votes, contents.config, seed) for seed in (3, 3, 4))
    assert first.equals(again) and not first.equals(other)
    assert first.drop_columns(["low", "high"]).equals(other.drop_columns(["low", "high"]))


def empty_tables(contents: Contents) -> dict[str, Any]:
    """The tables of the stages before, as a run that found nothing leaves them, and two iterations."""
    return {
        "situations": contents.situations,
        "filter_report": contents.filter_report,
        "filter_figure": contents.filter_figure,
        "dialogues": schemas.DIALOGUES.empty_table(),
        "annotations": schemas.ANNOTATIONS.empty_table(),
        "annotation_rejects": schemas.ANNOTATION_REJECTS.empty_table(),
        "sft_conversations": schemas.SFT_CONVERSATIONS.empty_table(),
        "dpo_pairs": schemas.DPO_PAIRS.empty_table(),
        **{f"candidates_{k}": contents.candidates for k in (1, 2)},
        **{f"trajectories_{k}": contents.trajectories for k in (1, 2)},
    }


@pytest.mark.parametrize("truth", [True, False])
def test_the_notebook_shows_a_finished_run(
    truth: bool,
    finished: dict[str, Any],
    rollouts: DataFrame,
    contents: Contents,
    configured: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SAGE_PROJECT", str(configured))
    monkeypatch.setenv("SAGE_ENV", "test")
    catalog = KedroSession.create(project_path=configured, env="test").load_context().catalog
    saved = {**empty_tables(contents), **finished, "rollouts_sage_dpo": by_policy(rollouts)["sage_dpo"]}
    if truth:
        saved |= {"truth_scores": contents.external_scores, "truth_win_rates": contents.external_win_rates}
    for name, data in saved.items():
        catalog.save(name, data)

    notebook = nbformat.read(configured / "notebooks" / "finished_run.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(
        output.get("data", {}).get("text/plain", "") + output.get("data", {}).get("text/markdown", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "offline-rules-judge" in shown and "sage_dpo" in shown
    assert ("no truth to compare with" in shown) is not truth
    images = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(images) == 3
