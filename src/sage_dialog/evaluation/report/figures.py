"""Figures as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.evaluation.replies.replies import MOST_VALUES, frequent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_SLOTS = 6
FEWEST_STEPS = 10
NO_BLOCKS = "No policy of this run wrote state and action blocks."
PANELS = {"a_motivation": "What it means to do", "a_emotion": "The feeling it answers with"}
TRAINING_MEASURES = {"loss": "loss", "preference_accuracy": "accuracy", "preference_margin": "margin"}
HELD_OUT = "held out"
INK, FAINT, BAR, EARLIER = "#1d2733", "#8a94a0", "#2f6f8f", "#c4581f"


def win_rate_figure(rates: Sequence[Mapping[str, Any]], confidence: float) -> bytes:
    """Each pair's win rate with its interval, a panel for each judge.

    Args:
        rates: rows of `schemas.WIN_RATES`; a pair of which nothing was decided has a line without a mark.
        confidence: of the intervals, such as 0.95.

    Returns:
        A PNG; where nobody judged it says so.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    judges = list(dict.fromkeys(row["judge"] for row in rates))
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(8, 0.9 + 0.5 * max(1, len(judges)) + 0.34 * len(rates)), dpi=150, layout=layout)
    figure.set_facecolor("white")
    if not judges:
        figure.text(0.5, 0.5, "Nobody judged.", ha="center", color=INK)
        return _png(figure)
    heights = [1.5 + sum(row["judge"] == judge for row in rates) for judge in judges]
    panels = figure.subplots(len(judges), 1, sharex=True, squeeze=False, height_ratios=heights).flat
    for axes, judge in zip(panels, judges, strict=True):
        rows = [row for row in rates if row["judge"] == judge]
        decided = [(line, row) for line, row in enumerate(rows) if row["win_rate_b"] is not None]
        lines, shares = [line for line, _ in decided], [100 * row["win_rate_b"] for _, row in decided]
        reach = [[100 * abs(row["win_rate_b"] - row[end]) for _, row in decided] for end in ("low", "high")]
        axes.axvline(50, color=FAINT, linewidth=1, linestyle=":")
        axes.errorbar(
            shares, lines, xerr=reach, fmt="o", color=BAR, ecolor=INK, elinewidth=1.2, capsize=3, clip_on=False
        )
        names = [
            f"{row['policy_b']} over {row['policy_a']}  ({row['wins_a'] + row['wins_b']} of {row['n']})" for row in rows
        ]
        axes.set_yticks(range(len(rows)), names, fontsize=9, color=INK, parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_title(judge, loc="left", fontsize=10, color=INK, parse_math=False)
        axes.tick_params(length=0, colors=FAINT, labelsize=8)
        axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    axes.set_xlabel(
        f"% of the decided (their number of all), with intervals at {confidence:.0%}", fontsize=9, color=FAINT
    )
    return _png(figure)


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
        figure.text(0.5, 0.5, NO_BLOCKS, ha="center", color=INK)
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


def confusion_figure(confusion: Sequence[Mapping[str, Any]]) -> bytes:
    """What the last policy reads at the first exchange, by label: a row is a label, dark where most replies fall.

    Args:
        confusion: rows of `schemas.EMOTION_CONFUSION`, policies in the order they were made.

    Returns:
        A PNG; where no policy wrote blocks it says so.
    """
    rows = _of_last(confusion)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    others = sorted({row["predicted"] for row in rows} - set(labels))
    shares = {(row["label"], row["predicted"]): row["share"] for row in rows}
    names = [f"{label} ({n})" for label, n in {row["label"]: row["n"] for row in rows}.items()]
    title = f"{rows[0]['policy']}: emotion read at the first exchange, by label (replies)" if rows else ""
    return _grid(names, [*labels, *others], [[shares.get((label, read), 0.0) for read in (*labels, *others)]
                                             for label in labels], title)  # fmt: skip


def transition_figure(transitions: Sequence[Mapping[str, Any]]) -> bytes:
    """What the last policy means to do after what: a row is the motivation before, with its frequent successors.

    The first row is of first replies, the last of all steps; a motivation that fewer than ten steps leave has none. A
    frame marks `differing_steps`: the reply before makes a difference there.

    Args:
        transitions: rows of `schemas.ACTION_TRANSITIONS`, policies in the order they were made.

    Returns:
        A PNG; where no policy wrote blocks in two replies running it says so.
    """
    rows = [row for row in _of_last(transitions) if row["field"] == "a_motivation"]
    everywhere = {row["after"]: row["expected"] for row in rows if row["before"] is not None}
    often = frequent(everywhere)
    steps = {(row["before"], row["after"]): row["share"] for row in rows}
    sizes = {row["before"]: row["n"] for row in rows}
    befores = [before for before in (None, *often) if sizes.get(before, 0) >= FEWEST_STEPS]
    names = [f"{'first reply' if before is None else before} ({sizes[before]})" for before in befores]
    cells = [[steps.get((before, after), 0.0) for after in often] for before in befores]
    differing = differing_steps(rows)
    framed = {
        (y, x) for y, before in enumerate(befores) for x, after in enumerate(often) if (before, after) in differing
    }
    if often:
        names, cells = [*names, "all steps"], [*cells, [everywhere[after] for after in often]]
    title = f"{rows[0]['policy']}: motivation, by the one before (replies)" if rows else ""
    return _grid(
        names, often, cells, title, framed, nothing="No policy of this run wrote blocks in two replies running."
    )


def differing_steps(rows: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """The steps (before, after) whose interval leaves out the share that `after` has of all steps.

    Args:
        rows: those of `schemas.ACTION_TRANSITIONS` of one policy and field.
    """
    return {
        (row["before"], row["after"])
        for row in rows
        if row["before"] is not None and not row["low"] <= row["expected"] <= row["high"]
    }


def training_figure(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """How each policy was trained: loss, and of preference learning accuracy and margin, over the updates.

    Args:
        logs: rows of `schemas.TRAINING_LOG` by policy, policies in the order they were made.

    Returns:
        A PNG with a panel for each policy and measure; where nothing was logged it says so.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    curves = training_curves(logs)
    lines, layout = -(-len(curves) // 2), ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(5.2, 0.8 + 1.6 * lines), dpi=200, layout=layout, facecolor="white")
    if not curves:
        figure.text(0.5, 0.5, "No training of this run was logged.", ha="center", color=INK)
        return _png(figure)
    panels = list(figure.subplots(lines, 2, squeeze=False).flat)
    shown = {}
    for axes, ((policy, measure), by_split) in zip(panels, curves.items(), strict=False):
        for split, points in by_split.items():
            steps, values = zip(*points, strict=True)
            sign = "o" if split == HELD_OUT or len(points) < FEWEST_STEPS else None
            shown[split] = axes.plot(
                steps, values, color=EARLIER if split == HELD_OUT else BAR, linewidth=1.3, marker=sign, markersize=4
            )[0]  # fmt: skip
        axes.set_title(f"{policy}: {measure}", loc="left", fontsize=10, color=INK, parse_math=False)
        axes.tick_params(length=0, labelcolor=INK, labelsize=9)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.locator_params(axis="y", nbins=4)
        axes.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    figure.supxlabel("updates", fontsize=9, color=INK)
    figure.legend(
        shown.values(), shown, loc="outside upper left", ncols=len(shown), frameon=False, fontsize=9, labelcolor=INK
    )  # fmt: skip
    return _png(figure)


def training_curves(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[tuple[str, str], dict[str, list[tuple[int, float]]]]:
    """By policy and measure, and by split, the (updates, value) that were logged; nothing of what is null throughout.

    Args:
        logs: rows of `schemas.TRAINING_LOG` by policy.
    """
    curves: dict[tuple[str, str], dict[str, list[tuple[int, float]]]] = {}
    for policy, rows in logs.items():
        for column, measure in TRAINING_MEASURES.items():
            for row in rows:
                if (value := row[column]) is not None:
                    by_split = curves.setdefault((policy, measure), {})
                    by_split.setdefault(row["split"], []).append((row["step"], value))
    return curves


def _of_last(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["policy"] == rows[-1]["policy"]]


def _grid(
    names: Sequence[str],
    columns: Sequence[str],
    shares: Sequence[Sequence[float]],
    title: str,
    framed: Collection[tuple[int, int]] = (),
    nothing: str = NO_BLOCKS,
) -> bytes:
    """Shares of rows as shades, with the percentage where it rounds to one; framed cells as (row, column)."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Rectangle

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    if not columns:
        figure = Figure(figsize=(9, 1.5), dpi=150, layout=layout, facecolor="white")
        figure.text(0.5, 0.5, nothing, ha="center", color=INK)
        return _png(figure)
    cell = 0.3 if len(columns) > 2 * MOST_VALUES else 0.6
    size = (max(5.5, 1.8 + cell * len(columns)), max(3.5, 1.6 + min(cell, 0.38) * len(names)))
    figure = Figure(figsize=size, dpi=150, layout=layout, facecolor="white")
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
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    return _png(figure)


def _png(figure: Any) -> bytes:
    image = io.BytesIO()
    # No software version and no date in the file: the same numbers give the same bytes.
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()
