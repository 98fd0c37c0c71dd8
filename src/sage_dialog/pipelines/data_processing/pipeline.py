"""Read dialogues from Reddit months and labelled corpora, and situations from EmpatheticDialogues::

    reddit_dumps ──> [make_dialogues] ──> dialogues
                                     ├──> filter_report ──> [draw_funnel] ──> filter_figure
                                     └──> rejected_lines

    empathetic_dialogues ──> [make_situations] ──> situations

    esconv, dailydialog, … ──> [read_labelled_corpora] ──> corpus_dialogues, corpus_rejects
    dialogues, corpus_dialogues ──> [find_text_duplicates] ──> text_duplicates

`filter_report` has the number of lines, comments and paths that reached each rule in each month, and the number that it
removed; `rejected_lines` has the unreadable lines.
"""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.data_processing.nodes import (
    draw_funnel,
    find_text_duplicates,
    make_dialogues,
    make_situations,
    read_labelled_corpora,
)


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                make_dialogues,
                inputs=["reddit_dumps", "params:data_processing", "params:scratch"],
                outputs=["dialogues", "filter_report", "rejected_lines"],
                name="make_dialogues",
            ),
            node(draw_funnel, inputs="filter_report", outputs="filter_figure", name="draw_funnel"),
            node(
                make_situations,
                inputs=["empathetic_dialogues", "params:data_processing.same_text_situations"],
                outputs="situations",
                name="make_situations",
            ),
            node(
                read_labelled_corpora,
                inputs=[
                    *("esconv", "dailydialog", "empathetic_dialogues", "empathetic_intents", "own_dialogues"),
                    "params:corpora",
                ],
                outputs=["corpus_dialogues", "corpus_rejects"],
                name="read_labelled_corpora",
            ),
            node(
                find_text_duplicates,
                inputs=["dialogues", "corpus_dialogues", "params:corpora"],
                outputs="text_duplicates",
                name="find_text_duplicates",
            ),
        ]
    )
