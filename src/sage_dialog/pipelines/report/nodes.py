"""Render the sections of the report, each from its own tables, and assemble them."""

from __future__ import annotations

from sage_dialog.config import Evaluation
from sage_dialog.core.tables import DataFrame
from sage_dialog.roles.protocols import Annotator, Judge, Selector


def report_overview(
    evaluation: Evaluation,
    seed: int,
    annotator: Annotator,
    selector: Selector,
    judges: list[Judge],
    policy_cards: DataFrame,
    rollouts: DataFrame,
    win_rates: DataFrame,
    judge_agreement: DataFrame,
    external_win_rates: DataFrame | None = None,
) -> str:
    """Render the header and the significant differences."""
    from sage_dialog.evaluation.report.sections import judging

    roles = _roles(annotator, selector, judges, win_rates)
    return judging.overview(
        evaluation, seed, roles, policy_cards, rollouts, win_rates, judge_agreement, external_win_rates
    )


def report_win_rates(
    evaluation: Evaluation, judges: list[Judge], judge_votes: DataFrame, win_rates: DataFrame, ranking: DataFrame
) -> str:
    """Render the win rates and rankings."""
    from sage_dialog.evaluation.report.sections import judging

    return judging.win_rates(evaluation, _judge_names(judges, win_rates), judge_votes, win_rates, ranking)


def report_judges(
    evaluation: Evaluation,
    win_rates: DataFrame,
    judge_checks: DataFrame,
    length_control: DataFrame,
    judge_agreement: DataFrame,
    self_preference: DataFrame,
    sample_sizes: DataFrame,
    external_win_rates: DataFrame | None = None,
) -> str:
    """Render the biases and agreement of the judges."""
    from sage_dialog.evaluation.report.sections import judging

    return judging.judges(
        *(evaluation, win_rates, judge_checks, length_control, judge_agreement, self_preference, sample_sizes),
        external_win_rates,
    )


def report_truth(evaluation: Evaluation, external_scores: DataFrame, external_win_rates: DataFrame) -> str:
    """Render the scores by the truth of a generated world."""
    from sage_dialog.evaluation.report.sections import judging

    return judging.truth(evaluation, external_scores, external_win_rates)


def report_emotions(
    evaluation: Evaluation,
    situations: DataFrame,
    emotion_accuracy: DataFrame,
    mapped_emotions: DataFrame,
    unmapped_emotions: DataFrame,
    emotion_confusion: DataFrame,
    emotion_top_k: DataFrame,
    confusion_figure: bytes,
) -> str:
    """Render the accuracy of the predicted user emotion."""
    from sage_dialog.evaluation.report.sections import replies

    return replies.emotions(
        *(evaluation, situations, emotion_accuracy, mapped_emotions, unmapped_emotions, emotion_confusion),
        *(emotion_top_k, confusion_figure),
    )


def report_replies(
    reply_statistics: DataFrame, diversity: DataFrame, action_figure: bytes, transition_figure: bytes
) -> str:
    """Render the actions, statistics and diversity of the replies."""
    from sage_dialog.evaluation.report.sections import replies

    return replies.replies(reply_statistics, diversity, action_figure, transition_figure)


def report_failures(failure_modes: DataFrame, failure_examples: DataFrame) -> str:
    """Render the failures of the replies."""
    from sage_dialog.evaluation.report.sections import replies

    return replies.failures(failure_modes, failure_examples)


def report_benchmarks(evaluation: Evaluation, benchmark_scores: DataFrame) -> str:
    """Render the standard benchmarks."""
    from sage_dialog.evaluation.report.sections import run

    return run.benchmarks(evaluation, benchmark_scores)


def report_dialogues(
    evaluation: Evaluation,
    seed: int,
    situations: DataFrame,
    rollouts: DataFrame,
    judge_votes: DataFrame,
    external_votes: DataFrame | None = None,
) -> str:
    """Render dialogues of all policies with the judges' votes."""
    import pandas as pd

    from sage_dialog.evaluation.report.sections import dialogues

    return dialogues.dialogues(evaluation, seed, situations, rollouts, pd.concat([judge_votes, external_votes]))


def report_searches(
    seed: int, selector: Selector, situations: DataFrame, trajectories: DataFrame, candidates: DataFrame
) -> str:
    """Render searched dialogues of the last self-play iteration."""
    from sage_dialog.evaluation.report.sections import dialogues

    return dialogues.searches(seed, selector.name, situations, trajectories, candidates)


def report_training(training_figure: bytes, **training_rejects: DataFrame) -> str:
    """Render the trainings; `training_rejects` are tables of `schemas.TRAINING_REJECTS` by policy."""
    from sage_dialog.evaluation.report.sections import run

    return run.training(training_figure, training_rejects)


def report_data(filter_report: DataFrame, filter_figure: bytes) -> str:
    """Render the filters of the Reddit data."""
    from sage_dialog.evaluation.report.sections import run

    return run.data(filter_report, filter_figure)


def report_versions(
    evaluation: Evaluation,
    annotator: Annotator,
    selector: Selector,
    judges: list[Judge],
    win_rates: DataFrame,
    policy_cards: DataFrame,
) -> str:
    """Render the versions of roles, libraries and policies."""
    from sage_dialog.evaluation.report.sections import run

    return run.versions(evaluation, _roles(annotator, selector, judges, win_rates), policy_cards)


def assemble_report(*sections: str) -> str:
    """Return the report as one HTML file of the rendered sections."""
    from sage_dialog.evaluation.report.page import assemble_page

    return assemble_page(list(sections))


def _judge_names(judges: list[Judge], win_rates: DataFrame) -> list[str]:
    """Return the configured judges, then the people who voted."""
    return list(dict.fromkeys([*(judge.name for judge in judges), *win_rates["judge"]]))


def _roles(
    annotator: Annotator, selector: Selector, judges: list[Judge], win_rates: DataFrame
) -> list[tuple[str, str]]:
    """Return kind and name of each role."""
    of_judges = [("judge", name) for name in _judge_names(judges, win_rates)]
    return [("annotator", annotator.name), ("selector", selector.name), *of_judges]
