"""A figure of the filter report: from lines to dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sage_dialog.core.tables import DataFrame
from sage_dialog.corpora.reddit.funnel import Step, steps

INK, FAINT, LEFT, REMOVED, MARK = "#1d2733", "#6b7682", "#d5dce1", "#c4581f", "#2f6f8f"


def funnel_figure(filter_report: DataFrame) -> Figure:
    """Draw what each rule left and removed, from the lines to the dialogues, on a linear scale, with numbers beside.

    Rules that removed nothing are left out.

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
    axes.set_xlim(0, max(bar.rule.n_in if bar.rule else bar.left for bar in bars))
    axes.set_ylim(len(bars) - 0.4, -0.6)
    most = f"{max(bar.rule.n_in if bar.rule else bar.left for bar in bars):,}"
    for place, bar in enumerate(bars):
        axes.barh(place, bar.left, height=0.72, color=LEFT if bar.rule else MARK)
        if bar.rule:
            axes.barh(place, bar.rule.n_removed, left=bar.left, height=0.72, color=REMOVED)
            counts = [_pad(f"{count:,}", most) for count in (bar.left, bar.rule.n_removed)]
            label = f"{counts[0]}   {counts[1]}   {_pad(bar.rule.share, '99.9 %')}"
            axes.text(1.02, place, label, transform=beside, va="center", fontsize=8.5, color=INK)
    axes.text(1.02, -1.0, "left, removed, its share", transform=beside, va="center", fontsize=8.5, color=REMOVED)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars], fontsize=9, color=INK, parse_math=False)
    for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
        tick.set_fontweight("normal" if bar.rule else "bold")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("lines, comments or paths", fontsize=9, color=FAINT)
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
