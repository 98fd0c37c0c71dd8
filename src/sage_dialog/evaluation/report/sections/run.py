"""Sections on the run itself: benchmarks, training, data, versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from sage_dialog import __version__
from sage_dialog.config import Evaluation
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.corpora.reddit.funnel_figure import MEANINGS, Step, months, steps
from sage_dialog.evaluation.report.page import inline_image, render_section

LIBRARIES = (
    "kedro",
    "pyarrow",
    "numpy",
    "scipy",
    "statsmodels",
    "torch",
    "transformers",
    "trl",
    "peft",
    "openai",
    "lm-eval",
)


def benchmarks(evaluation: Evaluation, benchmark_scores: DataFrame) -> str:
    """Return the scores of standard benchmarks before and after training; parts of groups are left out."""
    scores = benchmark_scores[benchmark_scores["part_of"].isna()]
    policies = scores["policy"].unique().tolist()
    return render_section(
        "benchmarks",
        evaluation=evaluation,
        against=policies[0] if policies else None,
        others=policies[1:],
        lines={
            key: {row["policy"]: row for row in to_rows(rows)}
            for key, rows in scores.groupby(["task", "metric"], sort=False)
        },
    )


def training(training_figure: bytes, training_rejects: Mapping[str, DataFrame]) -> str:
    """Return the curves of the trainings, and by policy how many rows were too long for training."""
    return render_section(
        "training",
        training_figure=inline_image(training_figure),
        training_rejects=[
            {
                "policy": policy,
                "rows": len(rows),
                "limit": max(rows["max_length"], default=None),
                "longest": max(rows["tokens"], default=None),
            }
            for policy, rows in training_rejects.items()
        ],
    )


def data(filter_report: DataFrame, filter_figure: bytes) -> str:
    """Return what each rule of the Reddit filters removed."""
    chain = steps(filter_report)
    return render_section(
        "data",
        filter_figure=inline_image(filter_figure),
        removing=[(step, _meaning(step)) for step in chain if step.n_removed],
        idle=[step.rule.replace("_", " ") for step in chain if not step.n_removed],
        dialogues=chain[-1].left if chain else 0,
        months=months(filter_report),
    )


def _meaning(step: Step) -> str:
    """Return half a sentence on what a rule removes; its unit alone if the rule is not among today's."""
    return f"{step.unit}s {MEANINGS[step.rule]}" if step.rule in MEANINGS else f"{step.unit}s"


def versions(evaluation: Evaluation, roles: Sequence[tuple[str, str]], policy_cards: DataFrame) -> str:
    """Return the roles, the sampling of the agent, and the versions of libraries and policies.

    Args:
        roles: kind and name of each role.
    """
    return render_section(
        "versions",
        evaluation=evaluation,
        roles=roles,
        versions={
            "sage-dialog": __version__,
            "Python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        policies=to_rows(policy_cards),
    )
