"""The filter report for readers: descriptions of the rules, sums over months, and a figure of the funnel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sage_dialog.core.tables import DataFrame

# What each rule removes, to be read after "lines", "comments" or "paths", with the names of `config.RedditRules`.
MEANINGS = {
    "damaged_archive": "lost where an archive breaks off, however many, counted as one",
    "not_json": "that are no JSON object in UTF-8",
    "bad_field": "in which a field that is needed is missing or has no clear value",
    "lone_surrogate": "with half a character, which UTF-8 cannot hold",
    "duplicate_thread": "with a submission that was read before",
    "submission": "read as threads, not as comments",
    "blocked_subreddit": "in one of blocked_subreddits",
    "deleted": "whose text was deleted or removed",
    "quote": "that quote (>)",
    "short_body": "of fewer than min_body_words words",
    "duplicate_comment": "with the id of an earlier one of their thread",
    "no_submission": "whose thread's submission was not read",
    "quiet_thread": "in threads of fewer than min_submission_comments comments, as their submissions state",
    "over_18": "in threads marked over 18 (drop_over_18)",
    "not_a_leaf": "that others answer: they stand inside paths and end none",
    "leaf_score": "whose last comment scores less than min_leaf_score",
    "few_turns": "of fewer than min_turns comments",
    "long_leaf": "whose last comment has more than max_comment_words words",
    "more_than_two_authors": "in which not two people, both known, take turns (two_authors)",
    "no_question": "in which no comment ends in a question mark (require_question)",
    "link": "with a link",
    "bracket": "with a round or square bracket",
    "empty_utterance": "in which nothing is left of a comment once its text is normalised",
    "capitals": "with more than max_capitals_run capitals in a row",
    "mean_words": "of min_mean_words words a comment or fewer, on average",
    "blocked_word": "with one of blocked_words",
    "language": "whose last comment has fewer than min_common_words of the most common English words",
    "sentiment": "with a comment whose VADER compound score is min_sentiment or lower",
    "path_tokens": "of more than max_path_tokens tokens",
    "long_token": "whose last comment has a token of more than max_token_chars characters",
    "repetition": "whose last comment says a token more than max_token_run times in a row",
    "shares_utterance": "that share a comment with a path already taken (disjoint)",
}

INK, FAINT, LEFT, REMOVED, MARK = "#1d2733", "#6b7682", "#d5dce1", "#c4581f", "#2f6f8f"


class Step(NamedTuple):
    """One rule over all months: `n_removed` of `n_in` lines, comments or paths (`unit`)."""

    rule: str
    unit: str
    n_in: int
    n_removed: int

    @property
    def left(self) -> int:
        return self.n_in - self.n_removed

    @property
    def share(self) -> str:
        """The removed share; only exact shares are written as 0 or 100 %."""
        percent = 100 * self.n_removed / self.n_in
        return "100 %" if not self.left else "<0.1 %" if percent < 0.1 else f"{min(percent, 99.9):.1f} %"


class Month(NamedTuple):
    """Counts of one month. A path, and with it a dialogue, belongs to the month of its last comment."""

    month: str
    lines: int
    comments: int
    paths: int
    dialogues: int


def steps(filter_report: DataFrame) -> list[Step]:
    """Return the rules in their order, summed over months, from a table of `schemas.FILTER_REPORT`."""
    sums = (
        filter_report.groupby(["step", "rule", "unit"])[["n_in", "n_removed"]].sum().reset_index().drop(columns="step")
    )
    return [Step(*row) for row in sums.itertuples(index=False, name=None)]


def months(filter_report: DataFrame) -> list[Month]:
    """Return the counts of each month, in order, from a table of `schemas.FILTER_REPORT`."""
    return [_month(month, steps(rows)) for month, rows in filter_report.groupby("month")]


def _month(month: str, chain: Sequence[Step]) -> Month:
    first = {step.unit: step.n_in for step in reversed(chain)}
    return Month(month, first.get("line", 0), first.get("comment", 0), first.get("path", 0), dialogues=chain[-1].left)


def funnel_figure(filter_report: DataFrame) -> Figure:
    """Draw what each rule removed, from the lines to the dialogues, on a logarithmic scale.

    On this scale equal shares have equal lengths, wherever in the funnel. Rules that removed nothing are left out.

    Args:
        filter_report: a table of `schemas.FILTER_REPORT`; without lines the figure is a note.
    """
    bars = _bars(steps(filter_report))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(9, 1.3 + 0.27 * len(bars)), dpi=150, layout=layout, facecolor="white")
    if not bars:
        figure.text(0.5, 0.5, "No line of any dump was read.", ha="center", va="center", color=INK)
        return figure
    axes = figure.subplots()
    _draw(axes, bars)
    axes.set_title(f"From {bars[0].name} to {bars[-1].name}", loc="left", fontsize=12, color=INK, pad=24)
    return figure


class _Bar(NamedTuple):
    """What a rule left; without a rule, the start of a unit or the dialogues."""

    name: str
    left: int
    rule: Step | None = None


def _bars(chain: Sequence[Step]) -> list[_Bar]:
    if not chain or not chain[0].n_in:
        return []
    bars, unit = [], ""
    for step in chain:
        if step.unit != unit:
            unit = step.unit
            bars.append(_Bar(_count(step.n_in, unit), step.n_in))
        if step.n_removed:
            bars.append(_Bar(step.rule.replace("_", " "), step.left, step))
    return [*bars, _Bar(_count(chain[-1].left, "dialogue"), chain[-1].left)]


def _count(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _draw(axes: Axes, bars: Sequence[_Bar]) -> None:
    beside = axes.get_yaxis_transform()
    start, end = 0.5, 1.15 * bars[0].left  # a logarithmic scale has no 0
    axes.set_xscale("log")
    axes.set_xlim(start, end)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    most = f"{max(bar.rule.n_removed if bar.rule else 0 for bar in bars):,}"
    for place, bar in enumerate(bars):
        left = max(bar.left, start)
        axes.barh(place, left - start, left=start, height=0.72, color=LEFT if bar.rule else MARK)
        if bar.rule:
            axes.barh(place, bar.rule.n_in - left, left=left, height=0.72, color=REMOVED)
            label = f"{_pad(f'{bar.rule.n_removed:,}', most)}   {_pad(bar.rule.share, '99.9 %')}"
            axes.text(1.02, place, label, transform=beside, va="center", fontsize=8.5, color=INK)
    axes.text(1.02, -1.0, "removed, and its share", transform=beside, va="center", fontsize=8.5, color=REMOVED)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars], fontsize=9, color=INK, parse_math=False)
    for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
        tick.set_fontweight("normal" if bar.rule else "bold")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("left, on a logarithmic scale", fontsize=9, color=FAINT)
    axes.tick_params(length=0, which="both", colors=FAINT, labelsize=8)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.grid(axis="x", color="white", linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _pad(number: str, widest: str) -> str:
    """Pad a number to the width of `widest`."""
    missing = widest[: max(0, len(widest) - len(number))]
    return "".join("\N{FIGURE SPACE}" if mark.isdigit() else "\N{PUNCTUATION SPACE}" for mark in missing) + number
