"""From raw months and CSVs to dialogues and situations::

    reddit_dumps ──> [make_dialogues] ──> dialogues
                                     └──> filter_report

    empathetic_dialogues ──> [make_situations] ──> situations

`filter_report` says for each month how many lines, comments and paths came to each rule and how many it took.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from sage_dialog.pipelines.data_processing.nodes import make_dialogues, make_situations


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                make_dialogues,
                inputs=["reddit_dumps", "params:data_processing"],
                outputs=["dialogues", "filter_report"],
                name="make_dialogues",
            ),
            node(make_situations, inputs="empathetic_dialogues", outputs="situations", name="make_situations"),
        ]
    )
