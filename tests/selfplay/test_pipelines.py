"""The iteration template and the preference pipeline: names in, names out."""

from __future__ import annotations

import pytest

from sage_dialog.pipelines import preference, self_play


@pytest.mark.parametrize("iteration", [1, 2, 7])
def test_an_iteration_takes_its_policy_and_gives_the_next(iteration: int) -> None:
    made = self_play.create_pipeline(iteration)
    assert {name for name in made.inputs() if not name.startswith("params:")} == {
        "sage_0",
        "sage_1",
        f"sage_{iteration}",
        "situations",
        "selector",
        "sft_conversations",
    }
    assert made.all_outputs() == {f"candidates_{iteration}", f"trajectories_{iteration}", f"sage_{iteration + 1}"}
    assert all(node.namespace == f"iteration_{iteration}" for node in made.nodes)


def test_the_last_iteration_feeds_the_preference_stage() -> None:
    made = self_play.create_pipeline(1) + self_play.create_pipeline(2) + preference.create_pipeline(2)
    assert made.outputs() == {"candidates_1", "sage_dpo"}
    assert "sage_2" in made.all_outputs() and "sage_2" not in made.inputs()
