"""The report: one HTML file that needs nothing beside it (paper Table 1, Figures 3 and 4)."""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sage_dialog import __version__
from sage_dialog.config import Evaluation, OutcomeRule
from sage_dialog.corpora.reddit.funnel_figure import MEANINGS, Step, months, steps
from sage_dialog.evaluation.benchmarks.scores import as_shown
from sage_dialog.evaluation.external_scores import mean_scores
from sage_dialog.evaluation.judging.votes import PERSON
from sage_dialog.evaluation.replies.emotions import majority_share
from sage_dialog.evaluation.replies.failures import FAILURES
from sage_dialog.evaluation.report import formatting as report_format
from sage_dialog.evaluation.report import judges as report_judges
from sage_dialog.evaluation.report.dialogues import EXAMPLES, as_json, dialogues_of_situations, searches

if TYPE_CHECKING:
    import pyarrow as pa

TEMPLATE = "report.html.j2"
SUITABLE = "suitable"
REPLY_STATISTICS = {
    "mean_words": "words a reply",
    "question_share": "replies that end in a question",
    "questions_per_reply": "questions a reply",
    "replies_per_dialogue": "replies a dialogue",
}
COUNTS = {"mean_words": 1, "questions_per_reply": 2, "replies_per_dialogue": 1}  # and the digits they are shown with
DIVERSITY = {
    "distinct_1": "different words of 100",
    "distinct_2": "different pairs",
    "distinct_3": "different triples",
    "self_bleu": "self-BLEU",
    "different_motivations": "other motivation",
    "different_emotions": "other emotion",
    "different_actions": "either other",
}
MOST_MIXED_UP = 8
OUTCOME_RULES: dict[OutcomeRule, str] = {
    "agreement": "a policy wins where both orders name it; all else is a tie",
    "half": "each order counts half, and the policy with more of it wins; all else is a tie",
    "first_order": "only the order in which a comes first counts here",
}
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


@dataclass(frozen=True)
class Contents:
    """What a report shows: tables by their schemas' names, roles by their own. `outside_*` may be missing.

    `rollouts` has the tables of `schemas.TRAJECTORIES` by policy, `training_rejects` those of `schemas.TRAINING_REJECTS`.
    """

    config: Evaluation
    seed: int
    roles: Mapping[str, str]
    judges: Sequence[str]
    policies: pa.Table
    situations: pa.Table
    rollouts: Mapping[str, pa.Table]
    judge_votes: pa.Table
    win_rates: pa.Table
    ranking: pa.Table
    judge_checks: pa.Table
    length_control: pa.Table
    judge_agreement: pa.Table
    self_preference: pa.Table
    sample_sizes: pa.Table
    emotion_accuracy: pa.Table
    mapped_emotions: pa.Table
    unmapped_emotions: pa.Table
    emotion_confusion: pa.Table
    confusion_figure: bytes
    emotion_top_k: pa.Table
    reply_statistics: pa.Table
    action_figure: bytes
    transition_figure: bytes
    diversity: pa.Table
    failure_modes: pa.Table
    failure_examples: pa.Table
    training_figure: bytes
    benchmark_scores: pa.Table
    training_rejects: Mapping[str, pa.Table]
    filter_report: pa.Table
    filter_figure: bytes
    candidates: pa.Table
    trajectories: pa.Table
    external_scores: pa.Table | None = None
    external_win_rates: pa.Table | None = None
    external_votes: pa.Table | None = None


def render_report(contents: Contents) -> str:
    """The whole report as HTML; every text of a model, a user or a file is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("sage_dialog.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = ("percent", "number", "thousands", "times", "against_average", "span", "shares")
    environment.filters |= {name: getattr(report_format, name) for name in shown}
    environment.filters |= {"p": report_format.p_value, "leaning": report_judges.leaning, "source_hash": source_hash}
    config, labels = contents.config, contents.situations
    judges = list(dict.fromkeys([*contents.judges, *contents.judge_votes["judge"].unique().to_pylist()]))
    roles = [*contents.roles.items(), *(("judge", name) for name in judges)]
    truths = [] if contents.external_win_rates is None else contents.external_win_rates["judge"].unique().to_pylist()
    return environment.get_template(TEMPLATE).render(
        style=Markup(_source("report.css")),
        script=Markup(_source("report.js")),
        judges=judges,
        people=any(judge.startswith(PERSON) for judge in judges),
        truths=truths,
        in_words=report_judges.in_words(
            contents.judge_checks,
            contents.win_rates,
            contents.length_control,
            contents.judge_agreement,
            contents.self_preference,
            truths,
            config.confidence,
        ),
        at_a_glance=report_judges.at_a_glance(
            _all_win_rates(contents), contents.judge_agreement, truths, config.confidence
        ),
        browser=_browser(contents),
        versions=_versions(),
        contents=contents,
        roles=roles,
        offline=[f"{role} {name}" for role, name in roles if name.startswith("offline")],
        judged=_grouped(contents.win_rates, "judge"),
        rule=OUTCOME_RULES[config.outcome_rule],
        agreement=_agreement(contents.win_rates, contents.judge_votes),
        ranked=_ranked(contents.ranking),
        checks=report_judges.figures(contents.judge_checks),
        lengths=_grouped(contents.length_control, "judge"),
        between_judges=_with_truth_first(contents.judge_agreement.to_pylist(), truths),
        kinships=contents.self_preference.to_pylist(),
        sizes=_sizes(contents.sample_sizes),
        outside=None if contents.external_scores is None else _external(contents.external_scores, config.confidence),
        external_pairs=[] if contents.external_win_rates is None else contents.external_win_rates.to_pylist(),
        accuracy=_by_policy(contents.emotion_accuracy.to_pylist(), "exchange"),
        chance=next(iter(contents.emotion_accuracy["chance"].to_pylist()), None),
        majority=majority_share(labels, config.split),
        mapping=next(iter(contents.mapped_emotions["mapping"].to_pylist()), None),
        mapped=_by_policy(contents.mapped_emotions.to_pylist(), "exchange"),
        unmapped=_grouped(contents.unmapped_emotions, "policy"),
        mixed_up=_mixed_up(contents.emotion_confusion.to_pylist()),
        guesses=_guesses(contents.emotion_top_k.to_pylist()),
        varied=_by_policy(contents.diversity.to_pylist(), "statistic"),
        varied_names=DIVERSITY,
        failures=_by_policy(contents.failure_modes.to_pylist(), "failure"),
        failure_rules=FAILURES,
        failure_examples=_grouped(contents.failure_examples, "failure"),
        statistics=_by_policy(contents.reply_statistics.to_pylist(), "statistic"),
        statistic_names=REPLY_STATISTICS,
        counts=COUNTS,
        action_figure=_inline(contents.action_figure),
        transition_figure=_inline(contents.transition_figure),
        confusion_figure=_inline(contents.confusion_figure),
        training_figure=_inline(contents.training_figure),
        benchmarks=as_shown(contents.benchmark_scores),
        training_rejects=[_longest(policy, rows.to_pylist()) for policy, rows in contents.training_rejects.items()],
        filter_figure=_inline(contents.filter_figure),
        funnel=_funnel(contents.filter_report),
        months=months(contents.filter_report.to_pylist()),
    )


def source_hash(source: str) -> str:
    """What the page's own rules (Content-Security-Policy) know an inline style or script by: no other one runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode("ascii")


def _source(name: str) -> str:
    return resources.files("sage_dialog.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _versions() -> dict[str, str]:
    return {
        "sage-dialog": __version__,
        "Python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def _browser(contents: Contents) -> dict[str, Any]:
    """What the browsers of dialogues and searches hold, as rows and as JSON."""
    from markupsafe import Markup

    emotions = dict(zip(*(contents.situations[key].to_pylist() for key in ("situation_id", "emotion")), strict=True))
    votes = [table for table in (contents.judge_votes, contents.external_votes) if table is not None]
    dialogues = dialogues_of_situations(contents.rollouts, votes, emotions, contents.config.outcome_rule, contents.seed)
    trees = searches(contents.trajectories, contents.candidates, emotions, contents.seed)
    policies = list(contents.rollouts)
    last_pair = [policy for policy in contents.config.pairs[-1] if policy in policies] if contents.config.pairs else []
    held = {"policies": policies, "ticked": last_pair or policies[:2], "rows": dialogues}
    return {
        "dialogues": dialogues,
        "dialogues_json": Markup(as_json(held)),
        "played": len(
            {id_ for table in contents.rollouts.values() for id_ in table["situation_id"].unique().to_pylist()}
        ),
        "searches": trees,
        "searches_json": Markup(as_json({"rows": trees})),
        "searched": len(contents.trajectories["situation_id"].unique()),
        "examples": EXAMPLES,
    }


def _all_win_rates(contents: Contents) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(
        [contents.win_rates, *([] if contents.external_win_rates is None else [contents.external_win_rates])]
    )


def _with_truth_first(agreement: list[dict[str, Any]], truths: Sequence[str]) -> list[dict[str, Any]]:
    return sorted(agreement, key=lambda row: row["judge_a"] not in truths and row["judge_b"] not in truths)


def _grouped(rows: pa.Table, column: str) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        groups.setdefault(row[column], []).append(row)
    return groups


def _agreement(win_rates: pa.Table, votes: pa.Table) -> dict[str, int]:
    """How the two orders of all pairs of dialogues agreed that were judged in both, as people do not."""
    rows = [row for row in win_rates.to_pylist() if not row["judge"].startswith(PERSON)]
    return {
        "pairs": sum(row["n"] for row in rows),
        "agreed": sum(row["n"] - row["inconsistent"] - row["unreadable"] for row in rows),
        "unreadable": votes["vote"].to_pylist().count("unreadable"),
    }


def _ranked(ranking: pa.Table) -> dict[str, Any]:
    """Judges, and the row of each policy by judge, policies in the order of the first judge's ranking."""
    by_policy: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in ranking.to_pylist():
        by_policy.setdefault(row["policy"], {})[row["judge"]] = row
    groups = len({(row["judge"], row["group"]) for row in ranking.to_pylist()})
    judges = ranking["judge"].unique().to_pylist()
    return {"judges": judges, "policies": by_policy, "several_groups": groups > len(judges)}


def _sizes(sample_sizes: pa.Table) -> list[dict[str, Any]]:
    """For each judge and true share, the row of one pair tested alone and the row of all pairs tested together."""
    by_share: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in sample_sizes.to_pylist():
        by_share.setdefault((row["judge"], row["true_share"]), []).append(row)
    return [{"alone": rows[0], "together": rows[-1]} for rows in by_share.values()]


def _external(scores: pa.Table, confidence: float) -> dict[str, Any]:
    first = mean_scores(scores, confidence, exchange=1)
    return {
        "scorers": scores["scorer"].unique().to_pylist(),
        "policies": scores["policy"].unique().to_pylist(),
        "suitable": first.get(SUITABLE, {}),
        "first": first,
        "all": mean_scores(scores, confidence),
    }


def _by_policy(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[Any, Mapping[str, Any]]]:
    table: dict[str, dict[Any, Mapping[str, Any]]] = {}
    for row in rows:
        table.setdefault(row["policy"], {})[row[key]] = row
    return table


def _mixed_up(confusion: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last policy's most frequent errors."""
    wrong = [row for row in confusion if row["label"] != row["predicted"] and row["policy"] == confusion[-1]["policy"]]
    return sorted(wrong, key=lambda row: (-row["count"], -row["share"]))[:MOST_MIXED_UP]


def _guesses(top_k: Sequence[Mapping[str, Any]]) -> dict[tuple[str, bool], dict[int, Mapping[str, Any]]]:
    """By policy and whether the situations were searched before, the row of each k."""
    table: dict[tuple[str, bool], dict[int, Mapping[str, Any]]] = {}
    for row in top_k:
        table.setdefault((row["policy"], row["searched_before"]), {})[row["k"]] = row
    return table


def _inline(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")


def _longest(policy: str, training_rejects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many rows were left out of a policy's training, how long they may be and how long the longest is."""
    longest = max((row["tokens"] for row in training_rejects), default=None)
    limit = max((row["max_length"] for row in training_rejects), default=None)
    return {"policy": policy, "rows": len(training_rejects), "longest": longest, "limit": limit}


def _funnel(filter_report: pa.Table) -> dict[str, Any]:
    """The rules that took something, in order, all months together, each with what it takes; names of the others."""
    chain = steps(filter_report.to_pylist())
    return {
        "taking": [(step, _meaning(step)) for step in chain if step.n_removed],
        "idle": [step.rule.replace("_", " ") for step in chain if not step.n_removed],
        "left": chain[-1].left if chain else 0,
    }


def _meaning(step: Step) -> str:
    """Half a sentence; a report of other rules than today's shows their names alone."""
    return f"{step.unit}s {MEANINGS[step.rule]}" if step.rule in MEANINGS else f"{step.unit}s"
