"""The reference evaluation as the report and its figure show it."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.report.figures import BAR, EARLIER, FAINT, INK, new_figure, plain_ticks, with_text

LEVEL = 0.05
"""Adjusted p below which a difference is marked."""

MEASURES = {
    "bits_per_byte": "bits per byte of the human reply",
    "emotion_accuracy": "user's emotion, first guess",
    "emotion_top_5": "user's emotion, in five guesses",
    "emotion_f1_macro": "user's emotion, macro F1",
    "emotion_f1_weighted": "user's emotion, weighted F1",
    "strategy_accuracy": "strategy of the reply, first guess",
    "strategy_f1_macro": "strategy, macro F1",
    "strategy_f1_weighted": "strategy, weighted F1",
    "bleu_2": "BLEU-2 of a sampled reply",
    "rouge_l": "ROUGE-L of a sampled reply",
    "distinct_1": "different words",
    "distinct_2": "different pairs of words",
    "words": "words of a reply",
    "invalid_share": "replies whose blocks do not parse",
}
"""Measures in the order of the report, in words."""

SHARES = {name for name in MEASURES if name not in ("bits_per_byte", "words")}
"""Measures that are shown in percent."""


def measures_by_corpus(results: DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Return for each corpus its measures in order: their title, their figures and their comparisons."""
    by_corpus: dict[str, list[dict[str, Any]]] = {}
    for corpus, rows in results.groupby("corpus", sort=False):
        by_measure = {measure: to_rows(of_measure) for measure, of_measure in rows.groupby("measure", sort=False)}
        by_corpus[str(corpus)] = [
            {
                **{"name": name, "title": title, "share": name in SHARES},
                "figures": [row for row in by_measure[name] if row["against"] is None],
                "comparisons": [row for row in by_measure[name] if row["against"] is not None],
            }
            for name, title in MEASURES.items()
            if name in by_measure
        ]
    return by_corpus


def reply_examples(items: DataFrame, replies: DataFrame, size: int, seed: int) -> list[dict[str, Any]]:
    """Return replies drawn by seed, each with its history and those of people and policies.

    Args:
        items: schemas.REFERENCE_ITEMS.
        replies: schemas.REFERENCE_REPLIES.
    """
    by_item = {str(item): to_rows(rows) for item, rows in replies.groupby("item_id", sort=False)}
    histories = dict(zip(items["item_id"], items["history"], strict=True))
    names = sample_ids(list(by_item), size, seed, "reference examples")
    return [{"item_id": name, "history": list(histories[name]), "replies": by_item[name]} for name in names]


def reference_figure(results: DataFrame, confidence: float) -> Figure:
    """Return a forest plot of the differences in bits per byte, a panel for each corpus.

    To the left of zero the second policy predicts people better; coloured where the difference is significant by Holm.
    """
    compared = results[(results["measure"] == "bits_per_byte") & results["against"].notna()]
    by_corpus = {str(corpus): to_rows(rows) for corpus, rows in compared.groupby("corpus", sort=False)}
    figure = new_figure((8, 1.2 + 0.6 * max(1, len(by_corpus)) + 0.35 * len(compared)))
    if not by_corpus:
        return with_text(figure, "No pair of policies was compared.")
    heights = [1.5 + len(rows) for rows in by_corpus.values()]
    panels = figure.subplots(len(by_corpus), 1, squeeze=False, height_ratios=heights).flat
    for axes, (corpus, rows) in zip(panels, by_corpus.items(), strict=True):
        axes.axvline(0, color=FAINT, linewidth=1, linestyle=":")
        for line, row in enumerate(rows):
            value, low, high = (row[name] for name in ("difference", "difference_low", "difference_high"))
            known = row["p_adjusted"] < LEVEL
            color = FAINT if not known else BAR if value < 0 else EARLIER
            axes.errorbar(
                value, line, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="o", color=color,
                mfc=color if known else "white", ecolor=color, elinewidth=1.4, capsize=3, clip_on=False,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [comparison(row) for row in rows], fontsize=9, color=INK, parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        title = f"{corpus}: difference in bits per byte ({rows[0]['n']} replies)"
        axes.set_title(title, loc="left", fontsize=10, color=INK, parse_math=False)
        plain_ticks(axes)
    axes.set_xlabel(
        f"less than zero: the first predicts people better\nintervals at {confidence:.0%}; filled: significant by Holm",
        fontsize=9, color=FAINT,
    )  # fmt: skip
    return figure


def comparison(row: dict[str, Any]) -> str:
    """Return the two sides of a comparison in words."""
    return f"{_side(row['policy'], row['condition'])} against {_side(row['against'], row['against_condition'])}"


def _side(policy: str, condition: str | None) -> str:
    return policy if condition in (None, "plain", "marginal") else f"{policy} ({condition})"
