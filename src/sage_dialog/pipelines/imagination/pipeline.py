"""From the description of tasks to dialogues with rewards::

imaginer ──> [draw_personas] ──> personas ──> [imagine] ──> imagined_dialogues ──┐
dialogue_critic ─────────────────────────────────────────────────────────────────┴─> [criticise] ──> critiques
critiques ──> [score] ──> rewards

personas ──> [measure_personas] ──> persona_diversity
personas, imagined_dialogues, critiques ──> [measure_critique] ──> critique_effects
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.imagination.nodes import (
    criticise,
    draw_personas,
    imagine,
    measure_critique,
    measure_personas,
    score,
)


def create_pipeline() -> Pipeline:
    parameters = "params:imagination"
    dialogues = ["personas", "imagined_dialogues"]
    return Pipeline(
        [
            node(draw_personas, ["imaginer", parameters, "params:seed"], "personas", name="draw_personas"),
            node(imagine, ["imaginer", "personas", parameters, "params:seed"], "imagined_dialogues", name="imagine"),
            node(criticise, ["dialogue_critic", *dialogues, parameters], "critiques", name="criticise"),
            node(score, ["critiques", parameters], "rewards", name="score"),
            node(measure_personas, ["personas", parameters], "persona_diversity", name="measure_personas"),
            node(measure_critique, [*dialogues, "critiques", parameters], "critique_effects", name="measure_critique"),
        ]
    )
