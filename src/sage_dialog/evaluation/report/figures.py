"""Figures of the evaluation, drawn so that equal tables give equal images.

Policies in the tables are in the order of their training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.replies.replies import MOST_VALUES, frequent
from sage_dialog.evaluation.report.findings import win_rates_by_pair
from sage_dialog.evaluation.report.formatting import answers, group_rows

FEWEST_SLOTS = 6
FEWEST_STEPS = 10
NO_BLOCKS = "No policy of this run wrote state and action blocks."
PANELS = {"a_motivation": "What it means to do", "a_emotion": "The feeling it answers with"}
TRAINING_MEASURES = {"loss": "loss", "preference_accuracy": "accuracy", "preference_margin": "margin"}
HELD_OUT = "held out"
INK, FAINT, BAR, EARLIER = "#1d2733", "#8a94a0", "#2f6f8f", "#c4581f"

Row = Mapping[str, Any]


def win_rate_figure(win_rates: DataFrame, confidence: float) -> Figure:
    """Return a forest plot: a panel for each pair, in it each judge's win rate with its interval.

    Coloured where the difference is significant after Holm's adjustment; without a mark if nothing was decided.
    """
    pairs = win_rates_by_pair(win_rates, confidence)
    figure = new_figure((8, 0.9 + 0.5 * max(1, len(pairs)) + 0.3 * len(win_rates)))
    if not pairs:
        return with_text(figure, "Nobody judged.")
    heights = [1.5 + len(rows) for rows in pairs.values()]
    panels = figure.subplots(len(pairs), 1, sharex=True, squeeze=False, height_ratios=heights).flat
    for axes, ((a, b), rows) in zip(panels, pairs.items(), strict=True):
        axes.axvline(50, color=FAINT, linewidth=1, linestyle=":")
        for line, row in enumerate(rows):
            if row["win_rate_b"] is None:
                continue
            share, low, high = (100 * row[name] for name in ("win_rate_b", "low", "high"))
            color = {"a": EARLIER, "b": BAR, None: FAINT}[row["leads"]]
            axes.errorbar(
                share, line, xerr=[[max(0.0, share - low)], [max(0.0, high - share)]], fmt="o", color=color,
                mfc=color if row["leads"] else "white", ecolor=color, elinewidth=1.4, capsize=3, clip_on=False,
            )  # fmt: skip
        names = [
            f"{row['judge']}{answers(row['judge'])}  ({row['wins_a'] + row['wins_b']} of {row['n']})" for row in rows
        ]
        axes.set_yticks(range(len(rows)), names, fontsize=9, color=INK, parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_title(f"{b} over {a}", loc="left", fontsize=10, color=INK, parse_math=False)
        plain_ticks(axes)
    axes.set_xlabel(
        f"% of the decided (their number of all), with intervals at {confidence:.0%}; filled: significant by Holm",
        fontsize=9, color=FAINT,
    )  # fmt: skip
    return figure


def action_figure(distribution: DataFrame) -> Figure:
    """Return the paper's Figure 3: motivations and emotions of the last policy, beside the first one with blocks."""
    policies = distribution["policy"].unique().tolist()
    figure = new_figure((9, 4.6))
    if not policies:
        return with_text(figure, NO_BLOCKS)
    last, first = policies[-1], policies[0]
    for axes, (field, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        by_policy = group_rows(distribution[distribution["field"] == field], "policy")
        _panel(axes, by_policy.get(last, []), by_policy.get(first, []))
        axes.set_title(title, loc="left", fontsize=11, color=INK)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _panel(axes: Axes, last: Sequence[Row], first: Sequence[Row]) -> None:
    """Draw bars with intervals for one policy, and diamonds for the earlier one if it is another."""
    rows = sorted(last, key=lambda row: -row["share"])[:MOST_VALUES]
    names = [row["value"] for row in rows]
    share = [100 * row["share"] for row in rows]
    reach = [[100 * abs(row["share"] - row[end]) for row in rows] for end in ("low", "high")]
    axes.barh(range(len(rows)), share, color=BAR, height=0.62, label=rows[0]["policy"] if rows else None)
    axes.errorbar(share, range(len(rows)), xerr=reach, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    if first and rows and first[0]["policy"] != rows[0]["policy"]:
        earlier = {row["value"]: 100 * row["share"] for row in first}
        axes.plot(
            [earlier.get(name, 0.0) for name in names],
            range(len(rows)),
            linestyle="none", marker="D", markersize=5, color=EARLIER, label=first[0]["policy"],
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), names, fontsize=9, color=INK, parse_math=False)
    axes.set_ylim(max(len(rows), FEWEST_SLOTS) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel("% of its replies", fontsize=9, color=FAINT)
    plain_ticks(axes)
    axes.spines["bottom"].set_color(FAINT)


def confusion_figure(confusion: DataFrame) -> Figure:
    """Return what the last policy reads at the first exchange: a row is a label, dark where most replies are."""
    rows = _of_last(confusion)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    columns = [*labels, *sorted({row["predicted"] for row in rows} - set(labels))]
    shares = {(row["label"], row["predicted"]): row["share"] for row in rows}
    names = [f"{label} ({n})" for label, n in {row["label"]: row["n"] for row in rows}.items()]
    title = f"{rows[0]['policy']}: emotion read at the first exchange, by label (replies)" if rows else ""
    cells = [[shares.get((label, read), 0.0) for read in columns] for label in labels]
    return _grid(names, columns, cells, title)


def transition_figure(transitions: DataFrame) -> Figure:
    """Return what the last policy means to do after what: a row is the motivation before, with its frequent successors.

    The first row is of first replies, the last of all steps; a motivation with fewer than ten steps has none. A frame
    marks the steps of `differing_steps`.
    """
    rows = _of_last(transitions[transitions["field"] == "a_motivation"])
    everywhere = {row["after"]: row["expected"] for row in rows if row["before"] is not None}
    often = frequent(everywhere)
    steps = {(row["before"], row["after"]): row["share"] for row in rows}
    sizes = {row["before"]: row["n"] for row in rows}
    befores = [before for before in (None, *often) if sizes.get(before, 0) >= FEWEST_STEPS]
    names = [f"{'first reply' if before is None else before} ({sizes[before]})" for before in befores]
    cells = [[steps.get((before, after), 0.0) for after in often] for before in befores]
    framed = {
        (befores.index(before), often.index(after))
        for before, after in differing_steps(rows)
        if before in befores and after in often
    }
    if often:
        names, cells = [*names, "all steps"], [*cells, [everywhere[after] for after in often]]
    title = f"{rows[0]['policy']}: motivation, by the one before (replies)" if rows else ""
    return _grid(
        names, often, cells, title, framed, empty="No policy of this run wrote blocks in two consecutive replies."
    )


def differing_steps(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """Return the steps (before, after) of one policy whose interval does not contain the share of `after` in all."""
    return {
        (row["before"], row["after"])
        for row in rows
        if row["before"] is not None and not row["low"] <= row["expected"] <= row["high"]
    }


def training_figure(logs: Mapping[str, DataFrame]) -> Figure:
    """Return the loss of each policy's training, and accuracy and margin of preference learning, over the updates."""
    curves = training_curves(logs)
    lines = -(-len(curves) // 2)
    figure = new_figure((5.2, 0.8 + 1.6 * lines), dpi=200, pad=0.08)
    if not curves:
        return with_text(figure, "No training of this run was logged.")
    panels = list(figure.subplots(lines, 2, squeeze=False).flat)
    by_split = {}
    for axes, ((policy, measure), curve) in zip(panels, curves.items(), strict=False):
        for split, points in curve.items():
            steps, values = zip(*points, strict=True)
            marker = "o" if split == HELD_OUT or len(points) < FEWEST_STEPS else None
            by_split[split] = axes.plot(
                steps, values, color=EARLIER if split == HELD_OUT else BAR, linewidth=1.3, marker=marker, markersize=4
            )[0]  # fmt: skip
        axes.set_title(f"{policy}: {measure}", loc="left", fontsize=10, color=INK, parse_math=False)
        axes.tick_params(length=0, labelcolor=INK, labelsize=9)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.locator_params(axis="y", nbins=4)
        axes.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    figure.supxlabel("updates", fontsize=9, color=INK)
    figure.legend(
        by_split.values(), by_split, loc="outside upper left", ncols=len(by_split), frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def training_curves(logs: Mapping[str, DataFrame]) -> dict[tuple[str, str], dict[str, list[tuple[int, float]]]]:
    """Return by policy and measure, and by split, the logged (updates, value); an all-null measure is left out."""
    curves: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
    for policy, log in logs.items():
        for column, measure in TRAINING_MEASURES.items():
            for split, points in log[log[column].notna()].groupby("split", sort=False):
                pairs = list(zip(points["step"], points[column], strict=True))
                curves.setdefault((policy, measure), {})[split] = pairs
    return curves


def _of_last(table: DataFrame) -> list[dict[str, Any]]:
    return to_rows(table[table["policy"].isin(table["policy"][-1:])])


def _grid(
    names: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[Sequence[float]],
    title: str,
    framed: Collection[tuple[int, int]] = (),
    empty: str = NO_BLOCKS,
) -> Figure:
    """Return shares of rows as shades, with the percentage where it rounds to one; framed cells as (row, column)."""
    if not columns:
        return with_text(new_figure((9, 1.5)), empty)
    cell = 0.3 if len(columns) > 2 * MOST_VALUES else 0.6
    figure = new_figure((max(5.5, 1.8 + cell * len(columns)), max(3.5, 1.6 + min(cell, 0.38) * len(names))))
    axes = figure.subplots()
    shades = LinearSegmentedColormap.from_list("shares", ["white", BAR])
    most = max(map(max, shares))
    axes.imshow(shares, cmap=shades, vmin=0, vmax=most, aspect="auto")
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            if share >= 0.005:
                axes.text(
                    x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=6 if cell < 0.5 else 8,
                    color="white" if share > 0.7 * most else INK,
                )  # fmt: skip
    for y, x in framed:
        axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=EARLIER, linewidth=1.2))
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_title(f"{title}, in %", loc="left", fontsize=10, color=INK)
    axes.spines[:].set_color(FAINT)
    return figure


def new_figure(size: tuple[float, float], dpi: int = 150, pad: float = 0.12) -> Figure:
    return Figure(figsize=size, dpi=dpi, layout=ConstrainedLayoutEngine(w_pad=pad, h_pad=pad), facecolor="white")


def with_text(figure: Figure, text: str) -> Figure:
    figure.text(0.5, 0.5, text, ha="center", color=INK)
    return figure


def plain_ticks(axes: Axes) -> None:
    axes.tick_params(length=0, colors=FAINT, labelsize=8)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
