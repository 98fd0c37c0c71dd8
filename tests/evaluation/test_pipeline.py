"""The evaluation pipeline from rollouts to report, and the notebook on its outputs."""

import inspect
from pathlib import Path
from typing import Any

import nbformat
import pyarrow as pa
import pytest
from jupyter_client import KernelManager
from kedro.framework.session import KedroSession
from matplotlib.figure import Figure
from nbclient import NotebookClient
from scripted_engine import ScriptedEngine

from sage_dialog import schemas
from sage_dialog.config import Evaluation, SacAugmentation
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import DataFrame, from_rows, to_arrow, to_rows
from sage_dialog.pipelines.evaluation import create_pipeline
from sage_dialog.pipelines.evaluation.nodes import check_judges, count_wins, rank_policies
from sage_dialog.roles.offline.judge import OfflineJudge
from sage_dialog.roles.offline.selector import OfflineSelector

POLICIES = ("sage_0", "sage_1", "sage_2", "sage_dpo")


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    made = {}
    for name in POLICIES:
        path = tmp_path_factory.mktemp(name)
        (path / "adapter_model.safetensors").write_bytes(name.encode())
        kind, parent = ("base", None) if name == "sage_0" else ("adapter", "sage_0")
        card = PolicyCard(name, kind, name != "sage_0", "sage_0", "base-revision", parent)
        made[name] = Policy.write_card(path, card)
    return made


def training_log() -> DataFrame:
    measured = {"epoch": 0.5, "tokens": 900, "loss": 1.5}
    rows = [{"step": step, "split": "train", **measured} for step in (1, 2)]
    return from_rows(rows, schemas.TRAINING_LOG)


def rollouts_of_policy(rollouts: DataFrame, policy: str) -> DataFrame:
    return rollouts[rollouts["policy"] == policy].drop(columns="policy")


@pytest.fixture(scope="module")
def finished(
    contents: dict[str, Any], rollouts: DataFrame, policies: dict[str, Policy], config: Evaluation
) -> dict[str, Any]:
    """Return what all nodes after the rollouts save."""
    data: dict[str, Any] = {
        **policies,
        **{f"rollouts_{policy}": rollouts_of_policy(rollouts, policy) for policy in POLICIES},
        **{
            name: contents[name]
            for name in ("situations", "filter_report", "filter_figure", "annotations", "text_duplicates")
        },
        **{f"candidates_{k}": contents["candidates_1"] for k in (1, 2, 3)},
        "trajectories_3": contents["trajectories_1"],
        **{f"training_log_{policy}": training_log() for policy in POLICIES[1:]},
        **{f"training_rejects_{policy}": contents[f"training_rejects_{policy}"] for policy in POLICIES[1:]},
        "external_models": {},
        "external_policies": {},
        "latest_iteration_verdicts": from_rows([], schemas.ITERATION_VERDICTS),
        "latest_reference_results": from_rows([], schemas.REFERENCE_RESULTS),
        "human_votes": {},
        "external_rollouts": from_rows([], schemas.ROLLOUTS),
        "annotator": OfflineSelector(),
        "selector": OfflineSelector(),
        "judges": [OfflineJudge()],
        "params:evaluation": config,
        "params:seed": 3,
        "params:threads": 1,
        "params:sac_augmentation": SacAugmentation.from_base(),
        "engine": lambda base, policies, seed, threads: ScriptedEngine(lambda policy, prompt, sample: "Hi."),
        "benchmark_files": {},
    }
    inputs = set(data)
    for node in create_pipeline(POLICIES, iterations=3).nodes:  # sorted topologically
        if not node.name.startswith("rollout_"):
            data |= node.run({name: data[name] for name in node.inputs})
    return {name: data[name] for name in set(data) - inputs}


def nullable(schema: pa.Schema) -> pa.Schema:
    """Return a schema without required columns, which a DataFrame does not keep."""
    return pa.schema([(field.name, field.type) for field in schema])


def test_every_output_exists_and_has_its_schema(finished: dict[str, Any]) -> None:
    tables = {
        "rollouts": schemas.ROLLOUTS,
        "replies": schemas.REPLIES,
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
        "failing_replies": schemas.FAILING_REPLIES,
        "form_validity": schemas.FORM_VALIDITY,
        "action_distribution": schemas.ACTION_DISTRIBUTION,
        "reply_statistics": schemas.REPLY_STATISTICS,
        "benchmark_scores": schemas.BENCHMARK_SCORES,
    }
    for name, schema in tables.items():
        assert to_arrow(finished[name]).schema.equals(nullable(schema)), name
    # One judge without a truth has no agreement and no self-preference. All emotions are labels. Twelve situations
    # are one group, which has no interval. There are no benchmark files.
    empty = {name for name in tables if finished[name].empty}
    assert empty == {
        "vote_rejects", "judge_agreement", "self_preference", "unmapped_emotions", "diversity", "benchmark_scores",
    }  # fmt: skip
    figures = ("win_rate_figure", "action_figure", "transition_figure", "confusion_figure", "training_figure")
    assert all(isinstance(finished[name], Figure) for name in figures)
    assert finished["report"].startswith("<!doctype html>") and "offline-rules-judge" in finished["report"]


def test_policies_without_blocks_predict_no_emotion(finished: dict[str, Any]) -> None:
    assert set(finished["emotion_accuracy"]["policy"]) == {"sage_1", "sage_2", "sage_dpo"}
    assert set(finished["reply_statistics"]["policy"]) == set(POLICIES)


def test_blocks_on_everyday_openings_are_measured_with_and_without_a_held_form(finished: dict[str, Any]) -> None:
    rows = to_rows(finished["form_validity"])
    with_blocks = ("sage_1", "sage_2", "sage_dpo")
    assert [(row["policy"], row["hold_form"]) for row in rows] == [
        (policy, held) for policy in with_blocks for held in (False, True)
    ]
    assert {row["n"] for row in rows} == {48}


def test_the_cards_carry_the_revision_of_the_weights(finished: dict[str, Any], policies: dict[str, Policy]) -> None:
    revisions = dict(zip(*(finished["policy_cards"][key] for key in ("policy", "revision")), strict=True))
    assert revisions["sage_0"] == "base-revision"
    assert revisions["sage_2"] == policies["sage_2"].revision() != revisions["sage_1"]


def test_each_policy_is_played_against_the_same_user() -> None:
    pipeline = create_pipeline(POLICIES, iterations=3, external_scores=True)
    played = {node.outputs[0]: node.inputs[:3] for node in pipeline.nodes if node.name.startswith("rollout_")}
    ours = {f"rollouts_{policy}": ["sage_0", policy, "sage_1"] for policy in POLICIES}
    assert played == ours | {"external_rollouts": ["sage_0", "sage_1", "situations"]}
    truth = {"truth_scores", "truth_votes", "truth_win_rates"}
    assert truth | {"candidates_3", "trajectories_3"} <= pipeline.inputs()
    assert not truth & create_pipeline(POLICIES, iterations=3).inputs()


def test_each_section_takes_the_tables_of_its_arguments() -> None:
    renamed = {"external_scores": "truth_scores", "external_votes": "truth_votes"}
    renamed |= {"external_win_rates": "truth_win_rates", "trajectories": "trajectories_3", "candidates": "candidates_3"}
    renamed |= {"evaluation": "params:evaluation", "seed": "params:seed"}
    renamed |= {"iteration_verdicts": "latest_iteration_verdicts", "reference_results": "latest_reference_results"}
    nodes = [node for node in create_pipeline(POLICIES, iterations=3, external_scores=True).nodes
             if node.name.startswith("report_")]  # fmt: skip
    assert len(nodes) == 14
    for node in nodes:
        arguments = [name for name in inspect.signature(node.func).parameters if name != "training_rejects"]
        inputs = [name for name in node.inputs if not name.startswith("training_rejects_")]
        assert inputs == [renamed.get(name, name) for name in arguments], node.name


def test_every_trained_policy_shows_its_training() -> None:
    nodes = {node.name: node for node in create_pipeline(POLICIES, iterations=3).nodes}
    assert nodes["draw_training"].inputs == [f"training_log_{policy}" for policy in ("sage_1", "sage_2", "sage_dpo")]
    assert {f"training_rejects_{policy}" for policy in ("sage_1", "sage_2", "sage_dpo")} < set(
        nodes["report_training"].inputs
    )


def test_the_truth_is_compared_with_the_judges(contents: dict[str, Any], rollouts: DataFrame) -> None:
    votes, cards, config = (contents[name] for name in ("judge_votes", "policy_cards", "params:evaluation"))
    truth = votes.assign(judge="world truth", vote="a")
    checks, lengths, agreement, preference = check_judges(votes, cards, rollouts, config, seed=3, external_votes=truth)
    pairs = [(None, None), *config.pairs]
    names = ["judge_a", "judge_b", "policy_a", "policy_b"]
    assert [tuple(row[name] for name in names) for row in to_rows(agreement)] == [
        ("offline-test-judge", "world truth", *pair) for pair in pairs
    ]
    for table in (checks, lengths, preference):
        assert "world truth" not in set(table["judge"])


def test_every_table_uses_the_configured_outcome_rule(contents: dict[str, Any], rollouts: DataFrame) -> None:
    split_votes = [{**row, "vote": "b" if row["order"] == "ab" else "tie"} for row in to_rows(contents["judge_votes"])]
    votes = from_rows([*split_votes, *({**row, "judge": "k"} for row in split_votes)], schemas.JUDGE_VOTES)
    found = {}
    for rule in ("agreement", "half"):
        config = contents["params:evaluation"].model_copy(update={"outcome_rule": rule})
        _, lengths, agreement, _ = check_judges(votes, contents["policy_cards"], rollouts, config, seed=3)
        found[rule] = (
            count_wins(votes, config)["wins_b"].sum(),
            rank_policies(votes, config, seed=3)["rank"].max(),
            lengths["n"].sum(),
            agreement["decided"].tolist(),
        )
    assert found == {"agreement": (0, 1, 0, [0] * 4), "half": (72, 4, 72, [36, 12, 12, 12])}


def test_the_same_votes_give_the_same_tables_and_another_seed_other_intervals(contents: dict[str, Any]) -> None:
    votes, config = contents["judge_votes"], contents["params:evaluation"]
    first, repeated, other = (rank_policies(votes, config, seed) for seed in (3, 3, 4))
    assert first.equals(repeated) and not first.equals(other)
    intervals = ["low", "high", "best_rank", "worst_rank"]
    assert first.drop(columns=intervals).equals(other.drop(columns=intervals))


def empty_tables(contents: dict[str, Any]) -> dict[str, Any]:
    """Return tables of previous stages, mostly empty, and of two iterations."""
    return {
        **{name: contents[name] for name in ("situations", "filter_report", "filter_figure")},
        "dialogues": from_rows([], schemas.DIALOGUES),
        "annotations": from_rows([], schemas.ANNOTATIONS),
        "text_duplicates": from_rows([], schemas.TEXT_DUPLICATES),
        "annotation_rejects": from_rows([], schemas.ANNOTATION_REJECTS),
        "sft_conversations": from_rows([], schemas.SFT_CONVERSATIONS),
        "dpo_pairs": from_rows([], schemas.DPO_PAIRS),
        **{f"candidates_{k}": contents["candidates_1"] for k in (1, 2)},
        **{f"trajectories_{k}": contents["trajectories_1"] for k in (1, 2)},
    }


@pytest.mark.slow
def test_the_notebook_shows_a_finished_run(
    finished: dict[str, Any],
    rollouts: DataFrame,
    contents: dict[str, Any],
    configured: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With and without the truth of a generated world, in one kernel, whose imports take seconds."""
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SAGE_PROJECT", str(configured))
    monkeypatch.setenv("SAGE_ENV", "test")
    catalog = KedroSession.create(project_path=configured, env="test").load_context().catalog
    kernel = KernelManager(kernel_name="python3")
    try:
        for truth, saved in (
            (False, {**empty_tables(contents), **finished}),
            (True, {name: contents[name] for name in ("truth_scores", "truth_win_rates")}),
        ):
            for name, data in saved.items():
                catalog.save(name, data)
            notebook = nbformat.read(configured / "notebooks" / "finished_run.ipynb", as_version=4)
            assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
            resources = {"metadata": {"path": str(tmp_path)}}
            NotebookClient(notebook, km=kernel, timeout=300, resources=resources).execute()
            outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
            text = "".join(data.get("text/plain", "") + data.get("text/markdown", "") for data in outputs)
            assert "offline-rules-judge" in text and "sage_dpo" in text
            assert ("no truth to compare with" in text) is not truth
            assert sum("image/png" in data for data in outputs) == 3
            assert sum("text/html" in data for data in outputs) >= 5
    finally:
        kernel.shutdown_kernel(now=True)
