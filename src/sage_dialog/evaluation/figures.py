"""Figures as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_VALUES = 10
FEWEST_SLOTS = 6
PANELS = {"a_motivation": "What it means to do", "a_emotion": "The feeling it answers with"}
INK, FAINT, BAR, EARLIER = "#1d2733", "#8a94a0", "#2f6f8f", "#c4581f"


def action_figure(distribution: Sequence[Mapping[str, Any]]) -> bytes:
    """The paper's Figure 3: motivations and emotions of the last policy, beside the first one that has blocks.

    Args:
        distribution: rows of `schemas.ACTION_DISTRIBUTION`, policies in the order they were made.

    Returns:
        A PNG; where no policy wrote blocks it says so.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    policies = list(dict.fromkeys(row["policy"] for row in distribution))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(9, 4.6), dpi=150, layout=layout, facecolor="white")
    if not policies:
        figure.text(0.5, 0.5, "No policy of this run wrote state and action blocks.", ha="center", color=INK)
        return _png(figure)
    last, first = policies[-1], policies[0]
    for axes, (field, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        rows = [row for row in distribution if row["field"] == field]
        _panel(axes, [row for row in rows if row["policy"] == last], [row for row in rows if row["policy"] == first])
        axes.set_title(title, loc="left", fontsize=11, color=INK)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return _png(figure)


def _panel(axes: Axes, last: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]]) -> None:
    """Bars with intervals for one policy, diamonds for the earlier one where it is another."""
    shown = sorted(last, key=lambda row: -row["share"])[:MOST_VALUES]
    names = [row["value"] for row in shown]
    share = [100 * row["share"] for row in shown]
    below = [100 * (row["share"] - row["low"]) for row in shown]
    above = [100 * (row["high"] - row["share"]) for row in shown]
    axes.barh(range(len(shown)), share, color=BAR, height=0.62, label=shown[0]["policy"] if shown else None)
    axes.errorbar(share, range(len(shown)), xerr=[below, above], fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    if first and shown and first[0]["policy"] != shown[0]["policy"]:
        earlier = {row["value"]: 100 * row["share"] for row in first}
        axes.plot(
            [earlier.get(name, 0.0) for name in names],
            range(len(shown)),
            linestyle="none", marker="D", markersize=5, color=EARLIER, label=first[0]["policy"],
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), names, fontsize=9, color=INK, parse_math=False)
    axes.set_ylim(max(len(shown), FEWEST_SLOTS) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("% of its replies", fontsize=9, color=FAINT)
    axes.tick_params(length=0, colors=FAINT, labelsize=8)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _png(figure: Any) -> bytes:
    image = io.BytesIO()
    # No software version and no date in the file: the same numbers give the same bytes.
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
