"""The report: one HTML file that needs nothing beside it (paper Table 1, Figures 3 and 4)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_dialog.corpora.reddit.figure import MEANINGS, Step, months, steps
from sage_dialog.evaluation.emotions import majority_share
from sage_dialog.evaluation.failures import FAILURES
from sage_dialog.evaluation.outside import mean_scores
from sage_dialog.parameters import Evaluation, OutcomeRule

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
JUDGE_CHECKS = {
    "order_flips": "the answer changes with the order of the two",
    "names_first": "where one dialogue is named, it is the one read first",
    "names_longer": "where both orders name a winner, it is the one that says more",
    "says_tie": "the answer is a tie",
    "unreadable": "the answer cannot be read",
}
LEANINGS = {  # below one half, above it
    "names_first": ("leans to the second place", "leans to the first place"),
    "names_longer": ("shorter dialogues win", "longer dialogues win"),
}


@dataclass(frozen=True)
class Contents:
    """What a report shows: tables by their schemas' names, roles by their own. `outside_*` may be missing.

    `left_out` has the tables of `schemas.LEFT_OUT` by policy.
    """

    dials: Evaluation
    seed: int
    roles: Mapping[str, str]
    judges: Sequence[str]
    policies: pa.Table
    situations: pa.Table
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
    left_out: Mapping[str, pa.Table]
    filter_report: pa.Table
    filter_figure: bytes
    candidates: pa.Table
    trajectories: pa.Table
    outside_scores: pa.Table | None = None
    outside_win_rates: pa.Table | None = None


@dataclass(frozen=True)
class Turn:
    """One message of the shown dialogue with the candidates that were not chosen, valid ones first."""

    message: Mapping[str, Any]
    rejected: tuple[Mapping[str, Any], ...] = ()


def render_report(contents: Contents) -> str:
    """The whole report as HTML; every text of a model, a user or a file is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sage_dialog.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "p": p_value, "number": number, "span": span, "thousands": thousands}
    environment.filters |= {"against_average": against_average, "leaning": leaning, "times": times}
    dials, labels = contents.dials, contents.situations
    roles = [*contents.roles.items(), *(("judge", name) for name in contents.judges)]
    shown = contents.trajectories.num_rows > 0
    return environment.get_template(TEMPLATE).render(
        contents=contents,
        roles=roles,
        offline=[f"{role} {name}" for role, name in roles if name.startswith("offline")],
        played=contents.judge_votes["situation_id"].unique().to_pylist(),
        judged=_grouped(contents.win_rates, "judge"),
        rule=OUTCOME_RULES[dials.outcome_rule],
        agreement=_agreement(contents.win_rates, contents.judge_votes),
        ranked=_ranked(contents.ranking),
        checks=_checks(contents.judge_checks),
        lengths=_grouped(contents.length_control, "judge"),
        between_judges=contents.judge_agreement.to_pylist(),
        kinships=contents.self_preference.to_pylist(),
        sizes=_sizes(contents.sample_sizes),
        outside=None if contents.outside_scores is None else _outside(contents.outside_scores, dials.confidence),
        outside_pairs=[] if contents.outside_win_rates is None else contents.outside_win_rates.to_pylist(),
        accuracy=_by_policy(contents.emotion_accuracy.to_pylist(), "exchange"),
        chance=next(iter(contents.emotion_accuracy["chance"].to_pylist()), None),
        majority=majority_share(labels, dials.split),
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
        left_out=[_longest(policy, rows.to_pylist()) for policy, rows in contents.left_out.items()],
        filter_figure=_inline(contents.filter_figure),
        funnel=_funnel(contents.filter_report),
        months=months(contents.filter_report.to_pylist()),
        dialogue=_annotated_dialogue(contents.trajectories, contents.candidates) if shown else None,
        emotions=dict(zip(labels["situation_id"].to_pylist(), labels["emotion"].to_pylist(), strict=True)),
    )


def _grouped(rows: pa.Table, column: str) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        groups.setdefault(row[column], []).append(row)
    return groups


def _agreement(win_rates: pa.Table, votes: pa.Table) -> dict[str, int]:
    """How the two orders of all judged pairs of dialogues agreed."""
    rows = win_rates.to_pylist()
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


def _checks(judge_checks: pa.Table) -> dict[str, Any]:
    """Judges, and what each statistic is by judge, in the words of JUDGE_CHECKS."""
    found = {(row["statistic"], row["judge"]): row for row in judge_checks.to_pylist()}
    judges = judge_checks["judge"].unique().to_pylist()
    rows = [
        (statistic, meaning, {judge: found[statistic, judge] for judge in judges if (statistic, judge) in found})
        for statistic, meaning in JUDGE_CHECKS.items()
    ]
    return {"judges": judges, "rows": rows}


def _sizes(sample_sizes: pa.Table) -> list[dict[str, Any]]:
    """For each judge and true share, the row of one pair tested alone and the row of all pairs tested together."""
    by_share: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in sample_sizes.to_pylist():
        by_share.setdefault((row["judge"], row["true_share"]), []).append(row)
    return [{"alone": rows[0], "together": rows[-1]} for rows in by_share.values()]


def _outside(scores: pa.Table, confidence: float) -> dict[str, Any]:
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


def _longest(policy: str, left_out: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many rows were left out of a policy's training, how long they may be and how long the longest is."""
    longest = max((row["tokens"] for row in left_out), default=None)
    limit = max((row["max_length"] for row in left_out), default=None)
    return {"policy": policy, "rows": len(left_out), "longest": longest, "limit": limit}


def _funnel(filter_report: pa.Table) -> dict[str, Any]:
    """The rules that took something, in order, all months together, each with what it takes; names of the others."""
    chain = steps(filter_report.to_pylist())
    return {
        "taking": [(step, _meaning(step)) for step in chain if step.removed],
        "idle": [step.rule.replace("_", " ") for step in chain if not step.removed],
        "left": chain[-1].left if chain else 0,
    }


def _meaning(step: Step) -> str:
    """Half a sentence; a report of other rules than today's shows their names alone."""
    return f"{step.unit}s {MEANINGS[step.rule]}" if step.rule in MEANINGS else f"{step.unit}s"


def _annotated_dialogue(trajectories: pa.Table, candidates: pa.Table) -> list[Turn]:
    """The longest dialogue of the last search, the first by id among those; a whole one, not a pretty one."""
    messages: dict[str, list[dict[str, Any]]] = {}
    for row in trajectories.sort_by("turn").to_pylist():
        messages.setdefault(row["situation_id"], []).append(row)
    situation = min(messages, key=lambda id_: (-len(messages[id_]), id_))
    rejected: dict[int, list[dict[str, Any]]] = {}
    for row in candidates.to_pylist():
        if row["situation_id"] == situation and not row["chosen"]:
            rejected.setdefault(row["turn"], []).append(row)
    return [
        Turn(
            message,
            tuple(sorted(rejected.get(message["turn"], ()), key=lambda row: (not row["valid"], row["candidate"]))),
        )
        for message in messages[situation]
    ]


def percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:z.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float, digits: int = 1) -> str:
    return f"{value:z.{digits}f}" if math.isfinite(value) else "–"


def thousands(number: int) -> str:
    return f"{number:,}"


def p_value(p: float) -> str:
    """Two significant digits: 0.27, 6.5e-04, 1."""
    return "1" if p > 0.995 else f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def times(factor: float) -> str:
    """Two significant digits: ×1.8, ×0.0052, ×24; more than a thousand is only that."""
    return "over ×1,000" if factor > 1000 else f"×{factor:.2g}" if factor < 10 else f"×{factor:.0f}"


def against_average(score: float) -> float:
    """The share of points that a policy of this score (log-odds) takes from one of average score."""
    return 1 / (1 + math.exp(-score))


def leaning(row: Mapping[str, Any]) -> str:
    """What a row of `schemas.JUDGE_CHECKS` shows where even is one half; nothing where another is right."""
    if row["statistic"] not in LEANINGS:
        return ""
    below, above = LEANINGS[row["statistic"]]
    return below if row["high"] < 0.5 else above if row["low"] > 0.5 else "no leaning seen"


def span(interval: Sequence[float]) -> dict[str, float]:
    """Where low, value and high stand on a line from 0 to 1, in percent, for the style sheet."""
    low, value, high = (100 * min(1.0, max(0.0, place)) for place in interval)
    return {"left": round(low, 2), "width": round(high - low, 2), "value": round(value, 2)}
