"""`negotiation_demo` at test size: every table and policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kedro.framework.session import KedroSession

from sage_dialog.pipelines.negotiation.pipeline import POLICIES, RERANKED

SIDES = (
    "1 4 4 1 1 2 YOU: the book {0} for me <eos> THEM: deal <eos> YOU: <selection> item0=1 item1=0 item2=1 <eos> "
    "reward=6 agree 1 0 4 2 1 2",
    "1 0 4 2 1 2 THEM: the book {0} for me <eos> YOU: deal <eos> THEM: <selection> item0=0 item1=4 item2=0 <eos> "
    "reward=8 agree 1 4 4 1 1 2",
)


@pytest.mark.slow
def test_negotiation_demo_makes_every_table(open_session: Callable[..., KedroSession], tmp_path: Path) -> None:
    folder = tmp_path / "data/test/01_raw/dealornodeal"
    folder.mkdir(parents=True)
    for name, count in (("train", 16), ("val", 3)):
        lines = [side.format(f"{name} {number}") for number in range(count) for side in SIDES]
        (folder / f"{name}.txt").write_text("\n".join(lines))
    with open_session() as session:
        session.run(pipeline_names=["negotiation_demo"])
    with open_session() as session:
        catalog = session.load_context().catalog
        rollouts, scores, comparisons, calibration, likeness, figure = (
            catalog.load(name)
            for name in (
                "negotiation_rollouts", "negotiation_scores", "negotiation_comparisons", "negotiation_calibration",
                "partner_likeness", "negotiation_calibration_figure",
            )
        )  # fmt: skip
        cards = {
            name: catalog.load(name).card
            for name in ("negotiation_base", "negotiation_partner", "negotiation_critic", *POLICIES)
        }
    assert set(rollouts["policy"]) == {*POLICIES, RERANKED} and len(rollouts) == 4 * 4  # of six contexts
    assert set(comparisons["policy_b"]) == {"negotiation_bc"} and len(comparisons) == 3 * 3
    assert set(scores["policy"]) == set(likeness["policy"]) == {*POLICIES, RERANKED}
    assert set(calibration["source"]) == {"held out", RERANKED} and figure.startswith(b"\x89PNG")
    assert {name: card.name for name, card in cards.items()} == {name: name for name in cards}
    assert cards["negotiation_awr"].parent == cards["negotiation_filtered"].parent == "negotiation_bc"
    base, partner = cards["negotiation_base"], cards["negotiation_partner"]
    assert base.kind == partner.kind == "base" and base.base_revision != partner.base_revision
