"""Render the sections of the report, each from its own tables, and assemble them."""

from __future__ import annotations

import platform
from importlib.metadata import version

from sage_dialog import __version__
from sage_dialog.config import Evaluation
from sage_dialog.core.hub_models import USER
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.report.findings import (
    JUDGE_CHECKS,
    findings_by_judge,
    significant_differences,
    situations_for_all_pairs,
    win_rates_by_pair,
)
from sage_dialog.evaluation.report.formatting import OUTCOME_RULES, group_rows, index_rows
from sage_dialog.evaluation.report.page import assemble_page, inline_image, render_section, script_data
from sage_dialog.roles.protocols import Annotator, Judge, Selector

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
BEHIND_CHECKS = {  # the filters of `report.js` that find what a statistic of `judge_checks` counts
    "order_flips": {"votes": "readable"},
    "names_first": {"answer": "named"},
    "says_tie": {"answer": "readable"},
    "unreadable": {"answer": "any"},
}
MOST_ERRORS = 8
EXAMPLES = 2  # dialogues without scripts
LIBRARIES = (
    "kedro", "pyarrow", "numpy", "scipy", "statsmodels", "torch", "transformers", "trl", "peft", "openai", "lm-eval",
)  # fmt: skip


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
    import pandas as pd

    truths = _judges(external_win_rates)
    revisions = dict(zip(policy_cards["policy"], policy_cards["revision"], strict=True))
    roles = _roles(annotator, selector, judges, win_rates)
    every = pd.concat([win_rates, external_win_rates])
    return render_section(
        "overview.html.j2",
        evaluation=evaluation,
        seed=seed,
        policies=len(policy_cards),
        user={"name": USER, "revision": revisions.get(USER)},
        situations=rollouts["situation_id"].nunique(),
        offline=[f"{role} {name}" for role, name in roles if name.startswith("offline")],
        truths=truths,
        win_rates=every,
        pairs=win_rates_by_pair(every, evaluation.confidence),
        at_a_glance=significant_differences(every, judge_agreement, truths, evaluation.confidence),
    )


def report_win_rates(evaluation: Evaluation, judges: list[Judge], win_rates: DataFrame, ranking: DataFrame) -> str:
    """Render the win rates and rankings by each judge."""
    from sage_dialog.evaluation.judging.people import PEOPLE, PERSON

    names = _judge_names(judges, win_rates)
    return render_section(
        "win_rates.html.j2",
        judges=names,
        people=any(name.startswith(PERSON) for name in names),
        several=(win_rates["judge"] == PEOPLE).any(),
        rule=OUTCOME_RULES[evaluation.outcome_rule],
        pairs=win_rates_by_pair(win_rates, evaluation.confidence),
        win_rates=win_rates,
        ranking=ranking,
        ranked={
            "judges": _judges(ranking),
            "policies": index_rows(ranking, "policy", "judge"),
            "several_groups": len(ranking[["judge", "group"]].drop_duplicates()) > ranking["judge"].nunique(),
        },
    )


def report_judges(
    evaluation: Evaluation,
    win_rates: DataFrame,
    judge_checks: DataFrame,
    length_control: DataFrame,
    judge_agreement: DataFrame,
    self_preference: DataFrame,
    sample_sizes: DataFrame,
    rater_agreement: DataFrame,
    external_win_rates: DataFrame | None = None,
) -> str:
    """Render the biases and agreement of the judges, and what their number of situations can show."""
    import pandas as pd

    truths = _judges(external_win_rates)
    with_truth = judge_agreement["judge_a"].isin(truths) | judge_agreement["judge_b"].isin(truths)
    by_statistic = index_rows(judge_checks, "statistic", "judge")
    sizes = [
        to_rows(rows) for _, rows in sample_sizes.groupby(["judge", "policy_a", "policy_b", "true_share"], sort=False)
    ]
    return render_section(
        "judges.html.j2",
        evaluation=evaluation,
        judged=len(win_rates) > 0,
        truths=truths,
        findings=findings_by_judge(
            judge_checks, win_rates, length_control, judge_agreement, self_preference, truths, evaluation.confidence
        ),
        judges=_judges(judge_checks),
        tables={"checks": judge_checks, "sizes": sample_sizes},
        behind=BEHIND_CHECKS,
        checks=[(meaning, by_statistic.get(statistic, {})) for statistic, meaning in JUDGE_CHECKS.items()],
        lengths=group_rows(length_control, "judge"),
        between_judges=to_rows(pd.concat([judge_agreement[with_truth], judge_agreement[~with_truth]])),
        relations=to_rows(self_preference),
        raters=to_rows(rater_agreement),
        sizes=[{"alone": rows[0], "together": rows[-1]} for rows in sizes],
        families=situations_for_all_pairs(sample_sizes),
    )


def report_truth(evaluation: Evaluation, external_scores: DataFrame, external_win_rates: DataFrame) -> str:
    """Render the scores and win rates by the truth of a generated world."""
    from sage_dialog.evaluation.statistics import mean_scores

    means = {
        "first": mean_scores(external_scores, evaluation.confidence, exchange=1),
        "every": mean_scores(external_scores, evaluation.confidence),
    }
    first, every = (index_rows(table, "statistic", "policy") for table in means.values())
    return render_section(
        "truth.html.j2",
        scorers=external_scores["scorer"].unique().tolist(),
        policies=external_scores["policy"].unique().tolist(),
        pairs=win_rates_by_pair(external_win_rates, evaluation.confidence),
        win_rates=external_win_rates,
        tables=means,
        suitable=first.get("suitable", {}),
        first=first,
        every=every,
    )


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
    """Render the accuracy of the predicted user emotion, the last policy's errors, and guesses in k."""
    from sage_dialog.evaluation.replies.emotions import majority_share

    of_last = emotion_confusion[emotion_confusion["policy"].isin(emotion_confusion["policy"][-1:])]
    errors = of_last[of_last["label"] != of_last["predicted"]]
    return render_section(
        "emotions.html.j2",
        tables={
            "accuracy": emotion_accuracy,
            "mapped": mapped_emotions,
            "confusion": emotion_confusion,
            "top_k": emotion_top_k,
        },
        accuracy=index_rows(emotion_accuracy, "policy", "exchange"),
        chance=next(iter(emotion_accuracy["chance"]), None),
        majority=majority_share(situations, evaluation.split),
        mapping=next(iter(mapped_emotions["mapping"]), None),
        mapped=index_rows(mapped_emotions, "policy", "exchange"),
        unmapped=group_rows(unmapped_emotions, "policy"),
        errors=to_rows(errors.sort_values(["count", "share"], ascending=False, kind="stable").head(MOST_ERRORS)),
        guesses=index_rows(emotion_top_k, ["policy", "searched_before"], "k"),
        confusion_figure=inline_image(confusion_figure),
    )


def report_replies(
    reply_statistics: DataFrame, diversity: DataFrame, action_figure: bytes, transition_figure: bytes
) -> str:
    """Render the actions, statistics and diversity of the replies."""
    return render_section(
        "replies.html.j2",
        tables={"statistics": reply_statistics, "diversity": diversity},
        action_figure=inline_image(action_figure),
        transition_figure=inline_image(transition_figure),
        statistics=index_rows(reply_statistics, "policy", "statistic"),
        statistic_names=REPLY_STATISTICS,
        counts=COUNTS,
        diversity=index_rows(diversity, "policy", "statistic"),
        diversity_names=DIVERSITY,
    )


def report_failures(seed: int, failure_modes: DataFrame, failing_replies: DataFrame, form_validity: DataFrame) -> str:
    """Render the rates of failures of the replies, with examples, and how often blocks parse."""
    from sage_dialog.evaluation.replies.failures import FAILURES, draw_examples

    return render_section(
        "failures.html.j2",
        failure_modes=failure_modes,
        failures=index_rows(failure_modes, "policy", "failure"),
        rules=FAILURES,
        examples=group_rows(draw_examples(failing_replies, seed), "failure"),
        form_validity=form_validity,
        forms=index_rows(form_validity, "policy", "hold_form"),
    )


def report_benchmarks(evaluation: Evaluation, benchmark_scores: DataFrame) -> str:
    """Render the standard benchmarks before and after training; parts of groups are left out."""
    scores = benchmark_scores[benchmark_scores["part_of"].isna()]
    policies = scores["policy"].unique().tolist()
    return render_section(
        "benchmarks.html.j2",
        evaluation=evaluation,
        against=policies[0] if policies else None,
        others=policies[1:],
        benchmark_scores=benchmark_scores,
        lines=index_rows(scores, ["task", "metric"], "policy"),
    )


def report_reference(reference_results: DataFrame) -> str:
    """Render the measures on held-out conversations of people.

    Args:
        reference_results: `schemas.REFERENCE_RESULTS`; empty where the reference evaluation has not run.
    """
    from sage_dialog.evaluation.report.reference_figure import measures_by_corpus

    corpora = measures_by_corpus(reference_results)
    return render_section("reference.html.j2", results=reference_results, corpora=corpora, forest=None)


def report_dialogues(
    evaluation: Evaluation,
    seed: int,
    situations: DataFrame,
    rollouts: DataFrame,
    replies: DataFrame,
    failing_replies: DataFrame,
    judge_votes: DataFrame,
    external_votes: DataFrame | None = None,
) -> str:
    """Render the dialogues of all policies, with the judges' votes and those by a truth."""
    import pandas as pd

    from sage_dialog.evaluation.judging.people import PERSON
    from sage_dialog.evaluation.replies.emotions import read_emotions
    from sage_dialog.evaluation.replies.failures import FAILURES
    from sage_dialog.evaluation.report.dialogues import embed_dialogues

    votes = pd.concat([judge_votes, external_votes])
    embedded = embed_dialogues(
        rollouts,
        votes,
        _emotions(situations),
        read_emotions(replies, situations),
        failing_replies,
        evaluation.outcome_rule,
        seed,
        EXAMPLES,
    )
    policies = rollouts["policy"].unique().tolist()
    last_pair = [policy for policy in evaluation.pairs[-1] if policy in policies] if evaluation.pairs else []
    return render_section(
        "dialogues.html.j2",
        rule=OUTCOME_RULES[evaluation.outcome_rule],
        people=votes["judge"].str.startswith(PERSON).any(),
        played=embedded.situations,
        examples=embedded.examples,
        data=script_data(
            {
                "policies": policies,
                "ticked": last_pair or policies[:2],
                "failures": list(FAILURES),
                **embedded.data,
            }
        ),
    )


def report_searches(
    seed: int, selector: Selector, situations: DataFrame, trajectories: DataFrame, candidates: DataFrame
) -> str:
    """Render searched dialogues of the last self-play iteration, with all candidates (paper Figure 4)."""
    from sage_dialog.evaluation.report.dialogues import embed_searches

    searches = embed_searches(trajectories, candidates, _emotions(situations), seed)
    return render_section(
        "searches.html.j2",
        selector=selector.name,
        embedded=searches.situations,
        example=next(iter(searches.examples), None),
        searched=trajectories["situation_id"].nunique(),
        data=script_data(searches.data),
    )


def report_training(training_figure: bytes, iteration_verdicts: DataFrame, **training_rejects: DataFrame) -> str:
    """Render the curves of the trainings, the verdicts on the iterations, and how many rows were too long.

    Args:
        iteration_verdicts: `schemas.ITERATION_VERDICTS`; empty where `kedro sage iterate` has not run.
        training_rejects: `schemas.TRAINING_REJECTS` by policy.
    """
    return render_section(
        "training.html.j2",
        training_figure=inline_image(training_figure),
        iteration_verdicts=iteration_verdicts,
        verdicts=to_rows(iteration_verdicts),
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


def report_data(
    filter_report: DataFrame, filter_figure: bytes, annotations: DataFrame, text_duplicates: DataFrame
) -> str:
    """Render what each rule of the Reddit filters removed, the texts that stand twice, and warnings about the data."""
    from sage_dialog.corpora.reddit.funnel import filter_warnings, months, steps
    from sage_dialog.roles.label_coverage import label_warnings

    chain = steps(filter_report)
    return render_section(
        "data.html.j2",
        warnings=[*filter_warnings(filter_report), *label_warnings(annotations)],
        filter_figure=inline_image(filter_figure),
        filter_report=filter_report,
        removing=[(step, step.description) for step in chain if step.n_removed],
        idle=[step.rule.replace("_", " ") for step in chain if not step.n_removed],
        dialogues=chain[-1].left if chain else 0,
        months=[month._asdict() for month in months(filter_report)],
        text_duplicates=text_duplicates,
        copies=_count_copies(text_duplicates),
    )


def _count_copies(text_duplicates: DataFrame) -> list[dict[str, object]]:
    """Return the number of copies by their places and those of their originals."""
    places = ["source", "split", "copy_source", "copy_split", "kind"]
    counts = text_duplicates.groupby(places)["removed"].agg(["size", "sum"]).reset_index()
    rows: list[dict[str, object]] = counts.rename(columns={"size": "copies", "sum": "removed"}).to_dict("records")
    return rows


def report_versions(
    evaluation: Evaluation,
    annotator: Annotator,
    selector: Selector,
    judges: list[Judge],
    win_rates: DataFrame,
    policy_cards: DataFrame,
) -> str:
    """Render the roles, the sampling of the agent, and the versions of libraries and policies."""
    return render_section(
        "versions.html.j2",
        evaluation=evaluation,
        roles=_roles(annotator, selector, judges, win_rates),
        versions={
            "sage-dialog": __version__,
            "Python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        policies=to_rows(policy_cards),
    )


def assemble_report(*sections: str) -> str:
    """Return the report as one HTML file of the rendered sections."""
    return assemble_page(sections)


def _judges(table: DataFrame | None) -> list[str]:
    return [] if table is None else table["judge"].unique().tolist()


def _judge_names(judges: list[Judge], win_rates: DataFrame) -> list[str]:
    """Return the configured judges, then the people who voted."""
    from sage_dialog.evaluation.judging.people import PEOPLE

    names = dict.fromkeys([*(judge.name for judge in judges), *win_rates["judge"]])
    return [name for name in names if name != PEOPLE]


def _roles(
    annotator: Annotator, selector: Selector, judges: list[Judge], win_rates: DataFrame
) -> list[tuple[str, str]]:
    """Return kind and name of each role."""
    of_judges = [("judge", name) for name in _judge_names(judges, win_rates)]
    return [("annotator", annotator.name), ("selector", selector.name), *of_judges]


def _emotions(situations: DataFrame) -> dict[str, str]:
    return dict(zip(situations["situation_id"], situations["emotion"], strict=True))
