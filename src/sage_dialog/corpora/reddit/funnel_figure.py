"""The filter report as people read it: what each rule takes, sums over months, and a picture of the funnel."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What each rule takes, to be read behind "lines", "comments" or "paths". Config go by their names in
# `parameters.RedditRules`.
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

INK, FAINT, LEFT, TAKEN, MARK = "#1d2733", "#6b7682", "#d5dce1", "#c4581f", "#2f6f8f"


class Step(NamedTuple):
    """One rule, all months together: of `n_in` (lines, comments or paths: `unit`) it took `n_removed`."""

    rule: str
    unit: str
    n_in: int
    n_removed: int

    @property
    def left(self) -> int:
        return self.n_in - self.n_removed

    @property
    def share(self) -> str:
        """What it took of what came in; a share that is neither nothing nor all never looks like it."""
        percent = 100 * self.n_removed / self.n_in
        return "100 %" if not self.left else "<0.1 %" if percent < 0.1 else f"{min(percent, 99.9):.1f} %"


class Month(NamedTuple):
    """How many there were in one month. A path, and with it a dialogue, belongs to its last comment's month."""

    month: str
    lines: int
    comments: int
    paths: int
    dialogues: int


def steps(filter_report: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The rules in the order in which they are asked, from rows of `schemas.FILTER_REPORT`."""
    sums: dict[int, Step] = {}
    for row in filter_report:
        n_in, n_removed = row["n_in"], row["n_removed"]
        if (before := sums.get(row["step"])) is not None:
            n_in, n_removed = n_in + before.n_in, n_removed + before.n_removed
        sums[row["step"]] = Step(row["rule"], row["unit"], n_in, n_removed)
    return [sums[step] for step in sorted(sums)]


def months(filter_report: Iterable[Mapping[str, Any]]) -> list[Month]:
    """What each month brought, in order, from rows of `schemas.FILTER_REPORT`."""
    by_month: dict[str, list[Mapping[str, Any]]] = {}
    for row in filter_report:
        by_month.setdefault(row["month"], []).append(row)
    return [_month(month, steps(by_month[month])) for month in sorted(by_month)]


def _month(month: str, chain: Sequence[Step]) -> Month:
    first = {step.unit: step.n_in for step in reversed(chain)}
    return Month(month, first.get("line", 0), first.get("comment", 0), first.get("path", 0), dialogues=chain[-1].left)


def funnel_figure(filter_report: Sequence[Mapping[str, Any]]) -> bytes:
    """What each rule took, from the lines that were read down to the dialogues, on a logarithmic scale.

    On it, a coloured piece is as long as the rule is strict: the same share taken has the same length, wherever in
    the funnel. Rules that took nothing are left out.

    Args:
        filter_report: rows of `schemas.FILTER_REPORT`.

    Returns:
        A PNG, the same bytes for the same rows; where nothing was read it says so.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    bars = _bars(steps(filter_report))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(9, 1.3 + 0.27 * len(bars)), dpi=150, layout=layout, facecolor="white")
    if not bars:
        figure.text(0.5, 0.5, "No line of any dump was read.", ha="center", va="center", color=INK)
        return _png(figure)
    axes = figure.subplots()
    _draw(axes, bars)
    axes.set_title(f"From {bars[0].name} to {bars[-1].name}", loc="left", fontsize=12, color=INK, pad=24)
    return _png(figure)


class _Bar(NamedTuple):
    """What a rule left; without one, where lines become comments, comments paths, paths dialogues."""

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
            bars.append(_Bar(_counted(step.n_in, unit), step.n_in))
        if step.n_removed:
            bars.append(_Bar(step.rule.replace("_", " "), step.left, step))
    return [*bars, _Bar(_counted(chain[-1].left, "dialogue"), chain[-1].left)]


def _counted(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _draw(axes: Axes, bars: Sequence[_Bar]) -> None:
    beside = axes.get_yaxis_transform()
    start, end = 0.5, 1.15 * bars[0].left  # a logarithmic scale has no 0: bars begin at one half
    axes.set_xscale("log")
    axes.set_xlim(start, end)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    most = f"{max(bar.rule.n_removed if bar.rule else 0 for bar in bars):,}"
    for place, bar in enumerate(bars):
        left = max(bar.left, start)
        axes.barh(place, left - start, left=start, height=0.72, color=LEFT if bar.rule else MARK)
        if bar.rule:
            axes.barh(place, bar.rule.n_in - left, left=left, height=0.72, color=TAKEN)
            taken = f"{_right(f'{bar.rule.n_removed:,}', most)}   {_right(bar.rule.share, '99.9 %')}"
            axes.text(1.02, place, taken, transform=beside, va="center", fontsize=8.5, color=INK)
    axes.text(1.02, -1.0, "taken of what came in", transform=beside, va="center", fontsize=8.5, color=TAKEN)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars], fontsize=9, color=INK, parse_math=False)
    for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
        label.set_fontweight("normal" if bar.rule else "bold")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("how many are left, on a logarithmic scale", fontsize=9, color=FAINT)
    axes.tick_params(length=0, which="both", colors=FAINT, labelsize=8)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.grid(axis="x", color="white", linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _right(number: str, widest: str) -> str:
    """A number with the room in front of it that `widest` has there."""
    room = widest[: max(0, len(widest) - len(number))]
    return "".join("\N{FIGURE SPACE}" if mark.isdigit() else "\N{PUNCTUATION SPACE}" for mark in room) + number


def _png(figure: Any) -> bytes:
    image = io.BytesIO()
    # No software version and no date in the file: the same numbers give the same bytes.
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
