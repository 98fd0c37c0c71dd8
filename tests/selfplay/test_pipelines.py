"""Inputs and outputs of the iteration template and the preference pipeline, and their order."""

from __future__ import annotations

import pytest

from sage_dialog.config import FineTuning, Preference, SacAugmentation, SamplingConfig, SelfPlay, Sft
from sage_dialog.pipeline_registry import register_pipelines
from sage_dialog.pipelines import preference, self_play
from sage_dialog.training.run_dir import TrainingResult

TRAINING = FineTuning.from_base(learning_rate=1e-3, batch_size=1, epochs=1.0)
CONFIG = {
    "sft": Sft.from_base(training=TRAINING),
    "self_play": SelfPlay.from_base(
        agent=SamplingConfig.from_base(top_k=100), user=SamplingConfig.from_base(top_k=100), training=TRAINING
    ),
    "preference": Preference.from_base(learning_rate=1e-3, batch_size=1),
    "sac_augmentation": SacAugmentation.from_base(system_prompts={"listener": "You listen."}),
}


@pytest.mark.parametrize("iteration", [1, 2, 7])
def test_an_iteration_takes_its_policy_and_gives_the_next(iteration: int) -> None:
    made = self_play.create_pipeline(iteration)
    assert {name for name in made.inputs() if not name.startswith("params:")} == {
        "sage_0",
        "sage_1",
        f"sage_{iteration}",
        "situations",
        "selector",
        "engine",
        "sft_conversations",
    }
    policy = f"sage_{iteration + 1}"
    assert made.all_outputs() == {
        *(f"candidates_{iteration}", f"trajectories_{iteration}"),
        *(policy, f"training_log_{policy}", f"training_rejects_{policy}"),
    }
    assert all(node.namespace == f"iteration_{iteration}" for node in made.nodes)


def test_the_last_iteration_feeds_the_preference_stage() -> None:
    made = self_play.create_pipeline(1) + self_play.create_pipeline(2) + preference.create_pipeline(2)
    tables = {
        f"{table}_{policy}"
        for table in ("training_log", "training_rejects")
        for policy in ("sage_2", "sage_3", "sage_dpo")
    }
    assert made.outputs() == {"sage_dpo", *tables}
    assert "sage_2" in made.all_outputs() and "sage_2" not in made.inputs()


@pytest.mark.parametrize("policy", ["sage_1", "sage_1_plain", "sage_2", "sage_dpo"])
def test_the_catalog_has_a_training_s_tables_before_its_policy(
    policy: str, monkeypatch: pytest.MonkeyPatch, policies, tmp_path
) -> None:
    """Saving the policy removes the scratch folder; after a kill before that, the tables must be saved."""
    made = TrainingResult("log", "left out", policies["agent"])
    for trainer in ("sft.fine_tune", "dpo.preference_tune"):
        monkeypatch.setattr(f"sage_dialog.training.{trainer}", lambda *_, **named: made)
    monkeypatch.setattr("sage_dialog.training_data.refinement.refinement_mix", lambda *_: None)
    (node,) = (node for node in register_pipelines()[policy].nodes if policy in node.outputs)
    inputs = {name: policies["agent"] for name in node.inputs}
    inputs |= {f"params:{stage}": config for stage, config in CONFIG.items()}
    inputs |= {"params:scratch": str(tmp_path), "params:seed": 0, "params:threads": 1}
    outputs = node.run({name: inputs[name] for name in node.inputs})
    assert list(outputs.items()) == list(
        zip((f"training_log_{policy}", f"training_rejects_{policy}", policy), made, strict=True)
    )
