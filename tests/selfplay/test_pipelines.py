"""The iteration template and the preference pipeline: names in, names out, and where they train."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dialog.parameters import FineTuning, Preference, SacAugmentation, SamplingDials, SelfPlay, Sft
from sage_dialog.pipeline_registry import register_pipelines
from sage_dialog.pipelines import preference, self_play

TRAINING = FineTuning(learning_rate=1e-3, batch_size=1)
DIALS = {
    "sft": Sft(training=TRAINING),
    "self_play": SelfPlay(agent=SamplingDials(), user=SamplingDials(), training=TRAINING),
    "preference": Preference(learning_rate=1e-3, batch_size=1),
    "sac_augmentation": SacAugmentation(preambles={"listener": "You listen."}),
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
    assert made.all_outputs() == {f"candidates_{iteration}", f"trajectories_{iteration}", f"sage_{iteration + 1}"}
    assert all(node.namespace == f"iteration_{iteration}" for node in made.nodes)


def test_the_last_iteration_feeds_the_preference_stage() -> None:
    made = self_play.create_pipeline(1) + self_play.create_pipeline(2) + preference.create_pipeline(2)
    assert made.outputs() == {"candidates_1", "sage_dpo"}
    assert "sage_2" in made.all_outputs() and "sage_2" not in made.inputs()


@pytest.mark.parametrize("policy", ["sage_1", "sage_1_plain", "sage_2", "sage_dpo"])
def test_nothing_of_an_earlier_training_gets_into_a_policy(
    policy: str, monkeypatch: pytest.MonkeyPatch, policies, tmp_path
) -> None:
    """What a run that was killed, or another, left in the scratch folder is not trained beside."""
    given: list[Path] = []
    for trainer in ("sft.fine_tune", "preference.prefer"):
        monkeypatch.setattr(
            f"sage_dialog.training.{trainer}",
            lambda *arguments, **named: given.extend(each for each in arguments if isinstance(each, Path)),
        )
    monkeypatch.setattr("sage_dialog.selfplay.refinement.refinement_mix", lambda *_: None)
    (node,) = (node for node in register_pipelines()[policy].nodes if node.outputs == [policy])
    inputs = {name: policies["agent"] for name in node.inputs}
    inputs |= {f"params:{stage}": dials for stage, dials in DIALS.items()}
    inputs |= {"params:scratch": str(tmp_path), "params:seed": 0, "params:threads": 1}
    for _ in range(2):
        node.run({name: inputs[name] for name in node.inputs})
        (out,) = given
        assert out.is_relative_to(tmp_path) and list(out.iterdir()) == []
        (out / "model-00002.safetensors").write_bytes(b"of another training")
        given.clear()
