"""`goal_demo` at test size: every table and policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kedro.framework.session import KedroSession

from sage_dialog.pipelines.offline_rl.pipeline import POLICIES, RERANKED

SMALL = {
    "imagination": {"personas": 12},
    "microworld": {"goal_documents": 40, "goal_base": {"hidden": 16, "steps": 2}},
    "offline_rl": {
        "training": {"max_steps": 2}, "refinement": {"max_steps": 1}, "critic": {"steps": 4, "batch_size": 4},
        "preference": {"pairs": 4, "max_steps": 1}, "situations": 1, "agent": {"max_new_tokens": 8},
    },
}  # fmt: skip


@pytest.mark.slow
def test_goal_demo_makes_every_table(open_session: Callable[..., KedroSession]) -> None:
    with open_session(**SMALL) as session:
        session.run(pipeline_names=["goal_demo"])
    with open_session(**SMALL) as session:
        catalog = session.load_context().catalog
        rollouts, scores, comparisons, calibration, figure = (
            catalog.load(name)
            for name in (
                "goal_rollouts", "goal_scores", "goal_comparisons", "value_calibration", "value_calibration_figure",
            )
        )  # fmt: skip
        cards = {name: catalog.load(name).card for name in ("goal_base", *POLICIES, "goal_critic")}
    assert set(rollouts["policy"]) == {*POLICIES, RERANKED} and len(rollouts) == 6 * 2
    assert rollouts.loc[rollouts["policy"] == RERANKED, "value"].notna().all()
    assert set(scores["policy"]) == {*POLICIES, RERANKED} and set(comparisons["policy_b"]) == {"goal_filtered"}
    assert {"held out", RERANKED} == set(calibration["source"]) and figure.startswith(b"\x89PNG")
    assert {cards[name].parent for name in ("goal_filtered", "goal_dpo", "goal_dpo_action", "goal_awr")} == {"goal_bc"}
    assert cards["goal_critic"].parent_revision and cards["goal_base"].kind == "base"
