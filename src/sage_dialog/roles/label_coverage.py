"""Warnings about an annotator that labels few utterances."""

from __future__ import annotations

from collections.abc import Iterator

from sage_dialog.core.tables import DataFrame

_MIN_SHARE = 0.2  # of the utterances that have a label; fewer are worth a warning


def label_warnings(annotations: DataFrame) -> Iterator[str]:
    """Yield a sentence for each kind of label that an annotator gives to few utterances.

    Dialogues that have a corpus's labels alone are left out: its label map decides which there are.

    Args:
        annotations: a table of `schemas.ANNOTATIONS`.
    """
    of_corpus = annotations["dialogue_id"].map(lambda name: name.partition("/")[0]) == annotations["annotator"]
    for annotator, rows in annotations[~of_corpus].groupby("annotator"):
        labelled = {
            "a motivation": rows["motivation"].notna(),
            "an emotion": rows["emotion"].notna(),
            "topics": rows["topics"].list.len().fillna(0) > 0,
        }
        for label, has_label in labelled.items():
            if has_label.mean() < _MIN_SHARE:
                yield f"{annotator} gives {label} to {100 * has_label.mean():.1f} % of {len(rows):,} utterances."
