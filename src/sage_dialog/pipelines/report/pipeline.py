"""A node renders each section of the report, and one assembles them::

    tables, figures, roles ─> [report_{section}] ─> report_{section} … ─> [assemble_report] ─> report

A new section is a template in `evaluation/report/templates` and a node here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kedro.pipeline import Pipeline, node

from sage_dialog.pipelines.report import nodes

EVALUATION, SEED = "params:evaluation", "params:seed"


def create_pipeline(trained: Sequence[str], iterations: int, external_scores: bool = False) -> Pipeline:
    """Return the nodes of the report.

    Args:
        trained: names of the trained policies, in the order of their training.
        iterations: number of self-play iterations; the report has searches of the last one.
        external_scores: whether `truth_scores`, `truth_votes` and `truth_win_rates` exist and belong into the report.
    """
    truth = ["truth_win_rates"] if external_scores else []
    sections: dict[Callable[..., str], list[str] | dict[str, str]] = {
        nodes.report_overview: [
            *(EVALUATION, SEED, "annotator", "selector", "judges", "policy_cards", "rollouts", "win_rates"),
            *("judge_agreement", *truth),
        ],
        nodes.report_win_rates: [EVALUATION, "judges", "win_rates", "ranking"],
        nodes.report_judges: [
            *(EVALUATION, "win_rates", "judge_checks", "length_control", "judge_agreement", "self_preference"),
            *("sample_sizes", "rater_agreement", *truth),
        ],
        **({nodes.report_truth: [EVALUATION, "truth_scores", "truth_win_rates"]} if external_scores else {}),
        nodes.report_emotions: [
            *(EVALUATION, "situations", "emotion_accuracy", "mapped_emotions", "unmapped_emotions"),
            *("emotion_confusion", "emotion_top_k", "confusion_figure"),
        ],
        nodes.report_replies: ["reply_statistics", "diversity", "action_figure", "transition_figure"],
        nodes.report_failures: [SEED, "failure_modes", "failing_replies", "form_validity"],
        nodes.report_benchmarks: [EVALUATION, "benchmark_scores"],
        nodes.report_reference: ["latest_reference_results"],
        nodes.report_dialogues: [
            *(EVALUATION, SEED, "situations", "rollouts", "replies", "failing_replies", "judge_votes"),
            *(["truth_votes"] if external_scores else []),
        ],
        nodes.report_searches: [
            *(SEED, "selector", "situations", f"trajectories_{iterations}", f"candidates_{iterations}"),
        ],
        nodes.report_training: {
            "training_figure": "training_figure",
            "iteration_verdicts": "latest_iteration_verdicts",
            **{policy: f"training_rejects_{policy}" for policy in trained},
        },
        nodes.report_data: ["filter_report", "filter_figure", "annotations", "text_duplicates"],
        nodes.report_versions: [EVALUATION, "annotator", "selector", "judges", "win_rates", "policy_cards"],
    }
    rendered = [node(render, inputs, render.__name__, name=render.__name__) for render, inputs in sections.items()]
    names = [render.__name__ for render in sections]
    return Pipeline([*rendered, node(nodes.assemble_report, names, "report", name="assemble_report")])
