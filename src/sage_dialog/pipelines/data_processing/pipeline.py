"""From raw months and CSVs to dialogues and situations::

    reddit_dumps ──> [make_dialogues] ──> dialogues
                                     ├──> filter_report ──> [draw_funnel] ──> filter_figure
                                     └──> rejected_lines

    empathetic_dialogues ──> [make_situations] ──> situations

`filter_report` says for each month how many lines, comments and paths came to each rule and how many it took;
`rejected_lines` holds the lines that could not be read.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node, pipeline

from sage_dialog.core.tables import on_arrow
from sage_dialog.pipelines.data_processing.nodes import draw_funnel, make_dialogues, make_situations


def create_pipeline() -> Pipeline:
    return pipeline(
        [
            node(
                on_arrow(make_dialogues),
                inputs=["reddit_dumps", "params:data_processing", "params:scratch"],
                outputs=["dialogues", "filter_report", "rejected_lines"],
                name="make_dialogues",
            ),
            node(on_arrow(draw_funnel), inputs="filter_report", outputs="filter_figure", name="draw_funnel"),
            node(
                on_arrow(make_situations), inputs="empathetic_dialogues", outputs="situations", name="make_situations"
            ),
        ]
    )
