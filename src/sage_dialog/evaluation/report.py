"""The report: one HTML file that needs nothing beside it (paper Table 1, Figures 3 and 4)."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_dialog.corpora.reddit.figure import MEANINGS, Step, months, steps
from sage_dialog.evaluation.emotions import majority_share
from sage_dialog.evaluation.outside import mean_scores
from sage_dialog.evaluation.statistics import holm
from sage_dialog.evaluation.votes import outcomes
from sage_dialog.parameters import Evaluation

if TYPE_CHECKING:
    import pyarrow as pa

TEMPLATE = "report.html.j2"
SUITABLE = "suitable"
REPLY_STATISTICS = {
    "mean_words": "words a reply",
    "question_share": "replies that end in a question",
    "valid_blocks": "replies whose blocks parse",
    "repeated_openings": "replies that open like an earlier one of the dialogue",
    "repeated_replies": "replies said before in the dialogue",
    "replies_per_dialogue": "replies a dialogue",
}
COUNTS = {"mean_words", "replies_per_dialogue"}


@dataclass(frozen=True)
class Contents:
    """What a report shows: tables by their schemas' names, roles by their own. `outside_*` may be missing."""

    dials: Evaluation
    seed: int
    roles: Mapping[str, str]
    judges: Sequence[str]
    policies: pa.Table
    situations: pa.Table
    judge_votes: pa.Table
    win_rates: pa.Table
    emotion_accuracy: pa.Table
    reply_statistics: pa.Table
    action_figure: bytes
    filter_report: pa.Table
    filter_figure: bytes
    candidates: pa.Table
    trajectories: pa.Table
    outside_scores: pa.Table | None = None
    outside_win_rates: pa.Table | None = None


@dataclass(frozen=True)
class Pair:
    """A row of `schemas.WIN_RATES`, and its p-value adjusted for all pairs of its table (Holm)."""

    row: Mapping[str, Any]
    adjusted: float


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
    dials, labels = contents.dials, contents.situations
    roles = [*contents.roles.items(), *(("judge", name) for name in contents.judges)]
    shown = contents.trajectories.num_rows > 0
    return environment.get_template(TEMPLATE).render(
        contents=contents,
        roles=roles,
        offline=[f"{role} {name}" for role, name in roles if name.startswith("offline")],
        played=contents.judge_votes["situation_id"].unique().to_pylist(),
        judged=_by_judge(contents.win_rates),
        agreement=_agreement(contents.judge_votes),
        outside=None if contents.outside_scores is None else _outside(contents.outside_scores, dials.confidence),
        outside_pairs=[] if contents.outside_win_rates is None else _pairs(contents.outside_win_rates.to_pylist()),
        accuracy=_by_policy(contents.emotion_accuracy.to_pylist(), "exchange"),
        chance=next(iter(contents.emotion_accuracy["chance"].to_pylist()), None),
        majority=majority_share(labels, dials.split),
        statistics=_by_policy(contents.reply_statistics.to_pylist(), "statistic"),
        statistic_names=REPLY_STATISTICS,
        counts=COUNTS,
        action_figure=_inline(contents.action_figure),
        filter_figure=_inline(contents.filter_figure),
        funnel=_funnel(contents.filter_report),
        months=months(contents.filter_report.to_pylist()),
        dialogue=_annotated_dialogue(contents.trajectories, contents.candidates) if shown else None,
        emotions=dict(zip(labels["situation_id"].to_pylist(), labels["emotion"].to_pylist(), strict=True)),
    )


def _by_judge(win_rates: pa.Table) -> dict[str, list[Pair]]:
    judges: dict[str, list[dict[str, Any]]] = {}
    for row in win_rates.to_pylist():
        judges.setdefault(row["judge"], []).append(row)
    return {judge: _pairs(rows) for judge, rows in judges.items()}


def _pairs(rows: Sequence[Mapping[str, Any]]) -> list[Pair]:
    adjusted = holm([row["p_value"] for row in rows])
    return [Pair(row, p) for row, p in zip(rows, adjusted, strict=True)]


def _agreement(votes: pa.Table) -> dict[str, int]:
    """How the two orders of all judged pairs of dialogues agreed."""
    rows = votes.to_pylist()
    heard: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        pair = (row["judge"], row["policy_a"], row["policy_b"], row["situation_id"])
        heard.setdefault(pair, set()).add(row["vote"])
    return {
        "pairs": sum(len(by_situation) for by_situation in outcomes(rows).values()),
        "agreed": sum(len(both) == 1 and "unreadable" not in both for both in heard.values()),
        "unreadable": sum(row["vote"] == "unreadable" for row in rows),
    }


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


def _inline(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")


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
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def thousands(number: int) -> str:
    return f"{number:,}"


def p_value(p: float) -> str:
    """Two significant digits: 0.27, 6.5e-04, 1."""
    return "1" if p > 0.995 else f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def span(interval: Sequence[float]) -> dict[str, float]:
    """Where low, value and high stand on a line from 0 to 1, in percent, for the style sheet."""
    low, value, high = (100 * min(1.0, max(0.0, place)) for place in interval)
    return {"left": round(low, 2), "width": round(high - low, 2), "value": round(value, 2)}
