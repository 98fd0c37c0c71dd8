"""Sections on win rates, rankings, judges, and the truth of a generated world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sage_dialog.config import Evaluation
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.external_scores import mean_scores
from sage_dialog.evaluation.judging.votes import PERSON
from sage_dialog.evaluation.report.findings import check_table, findings_by_judge, significant_differences
from sage_dialog.evaluation.report.formatting import OUTCOME_RULES, group_rows
from sage_dialog.evaluation.report.page import render_section

SUITABLE = "suitable"


def overview(
    evaluation: Evaluation,
    seed: int,
    roles: Sequence[tuple[str, str]],
    policy_cards: DataFrame,
    rollouts: DataFrame,
    win_rates: DataFrame,
    judge_agreement: DataFrame,
    external_win_rates: DataFrame | None,
) -> str:
    """Return the header, and which differences between policies are significant.

    Args:
        roles: kind and name of each role.
    """
    truths = _judges(external_win_rates)
    return render_section(
        "overview",
        evaluation=evaluation,
        seed=seed,
        policies=len(policy_cards),
        situations=rollouts["situation_id"].nunique(),
        offline=[f"{role} {name}" for role, name in roles if name.startswith("offline")],
        truths=truths,
        at_a_glance=significant_differences(
            pd.concat([win_rates, external_win_rates]), judge_agreement, truths, evaluation.confidence
        ),
    )


def win_rates(
    evaluation: Evaluation, judges: Sequence[str], judge_votes: DataFrame, win_rates: DataFrame, ranking: DataFrame
) -> str:
    """Return the win rates and rankings by each judge."""
    of_models = win_rates[~win_rates["judge"].str.startswith(PERSON)]
    by_policy: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in to_rows(ranking):
        by_policy.setdefault(row["policy"], {})[row["judge"]] = row
    return render_section(
        "win_rates",
        judges=judges,
        people=has_people(judges),
        rule=OUTCOME_RULES[evaluation.outcome_rule],
        judged=group_rows(win_rates, "judge"),
        agreement={
            "pairs": int(of_models["n"].sum()),
            "agreed": int((of_models["n"] - of_models["inconsistent"] - of_models["unreadable"]).sum()),
            "unreadable": int((judge_votes["vote"] == "unreadable").sum()),
        },
        ranked={
            "judges": _judges(ranking),
            "policies": by_policy,
            "several_groups": len(ranking[["judge", "group"]].drop_duplicates()) > ranking["judge"].nunique(),
        },
    )


def judges(
    evaluation: Evaluation,
    win_rates: DataFrame,
    judge_checks: DataFrame,
    length_control: DataFrame,
    judge_agreement: DataFrame,
    self_preference: DataFrame,
    sample_sizes: DataFrame,
    external_win_rates: DataFrame | None,
) -> str:
    """Return the biases and agreement of the judges, and what their number of situations can show."""
    truths = _judges(external_win_rates)
    with_truth = judge_agreement["judge_a"].isin(truths) | judge_agreement["judge_b"].isin(truths)
    sizes = [to_rows(rows) for _, rows in sample_sizes.groupby(["judge", "true_share"], sort=False)]
    return render_section(
        "judges",
        evaluation=evaluation,
        judged=len(win_rates) > 0,
        truths=truths,
        findings=findings_by_judge(
            judge_checks, win_rates, length_control, judge_agreement, self_preference, truths, evaluation.confidence
        ),
        judges=_judges(judge_checks),
        checks=check_table(judge_checks),
        lengths=group_rows(length_control, "judge"),
        between_judges=to_rows(pd.concat([judge_agreement[with_truth], judge_agreement[~with_truth]])),
        relations=to_rows(self_preference),
        sizes=[{"alone": rows[0], "together": rows[-1]} for rows in sizes],
    )


def truth(evaluation: Evaluation, external_scores: DataFrame, external_win_rates: DataFrame) -> str:
    """Return the scores and win rates by the truth of a generated world."""
    first = _by_statistic(mean_scores(external_scores, evaluation.confidence, exchange=1))
    return render_section(
        "truth",
        scorers=external_scores["scorer"].unique().tolist(),
        policies=external_scores["policy"].unique().tolist(),
        win_rates=to_rows(external_win_rates),
        suitable=first.get(SUITABLE, {}),
        first=first,
        every=_by_statistic(mean_scores(external_scores, evaluation.confidence)),
    )


def has_people(judges: Sequence[str]) -> bool:
    """Return whether a judge is a person, who reads each pair once."""
    return any(judge.startswith(PERSON) for judge in judges)


def _judges(table: DataFrame | None) -> list[str]:
    return [] if table is None else table["judge"].unique().tolist()


def _by_statistic(means: DataFrame) -> dict[str, dict[str, Mapping[str, Any]]]:
    return {
        statistic: {row["policy"]: row for row in rows} for statistic, rows in group_rows(means, "statistic").items()
    }
