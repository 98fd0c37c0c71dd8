"""Sections on the agents' replies: predicted emotions, actions, statistics, diversity, failures."""

from __future__ import annotations

from sage_dialog.config import Evaluation
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.replies.emotions import majority_share
from sage_dialog.evaluation.replies.failures import FAILURES
from sage_dialog.evaluation.report.formatting import group_rows, rows_by_policy
from sage_dialog.evaluation.report.page import inline_image, render_section

REPLY_STATISTICS = {
    "mean_words": "words a reply",
    "question_share": "replies that end in a question",
    "questions_per_reply": "questions a reply",
    "replies_per_dialogue": "replies a dialogue",
}
COUNTS = {"mean_words": 1, "questions_per_reply": 2, "replies_per_dialogue": 1}  # with their number of digits
DIVERSITY = {
    "distinct_1": "different words of 100",
    "distinct_2": "different pairs",
    "distinct_3": "different triples",
    "self_bleu": "self-BLEU",
    "different_motivations": "other motivation",
    "different_emotions": "other emotion",
    "different_actions": "either other",
}
MOST_ERRORS = 8


def emotions(
    evaluation: Evaluation,
    situations: DataFrame,
    emotion_accuracy: DataFrame,
    mapped_emotions: DataFrame,
    unmapped_emotions: DataFrame,
    emotion_confusion: DataFrame,
    emotion_top_k: DataFrame,
    confusion_figure: bytes,
) -> str:
    """Return the accuracy of the predicted user emotion, its confusions, and guesses in k."""
    return render_section(
        "emotions",
        accuracy=rows_by_policy(emotion_accuracy, "exchange"),
        chance=next(iter(emotion_accuracy["chance"]), None),
        majority=majority_share(situations, evaluation.split),
        mapping=next(iter(mapped_emotions["mapping"]), None),
        mapped=rows_by_policy(mapped_emotions, "exchange"),
        unmapped=group_rows(unmapped_emotions, "policy"),
        errors=to_rows(_frequent_errors(emotion_confusion)),
        guesses={
            key: {row["k"]: row for row in to_rows(rows)}
            for key, rows in emotion_top_k.groupby(["policy", "searched_before"], sort=False)
        },
        confusion_figure=inline_image(confusion_figure),
    )


def _frequent_errors(confusion: DataFrame) -> DataFrame:
    """Return the most frequent errors of the last policy."""
    wrong = confusion[
        (confusion["label"] != confusion["predicted"]) & confusion["policy"].isin(confusion["policy"][-1:])
    ]
    return wrong.sort_values(["count", "share"], ascending=False, kind="stable").head(MOST_ERRORS)


def replies(reply_statistics: DataFrame, diversity: DataFrame, action_figure: bytes, transition_figure: bytes) -> str:
    """Return the actions, statistics and diversity of the replies."""
    return render_section(
        "replies",
        action_figure=inline_image(action_figure),
        transition_figure=inline_image(transition_figure),
        statistics=rows_by_policy(reply_statistics, "statistic"),
        statistic_names=REPLY_STATISTICS,
        counts=COUNTS,
        diversity=rows_by_policy(diversity, "statistic"),
        diversity_names=DIVERSITY,
    )


def failures(failure_modes: DataFrame, failure_examples: DataFrame) -> str:
    """Return the rates of failures, with examples."""
    return render_section(
        "failures",
        failures=rows_by_policy(failure_modes, "failure"),
        rules=FAILURES,
        examples=group_rows(failure_examples, "failure"),
    )
