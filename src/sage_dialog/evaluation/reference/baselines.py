"""Labels predicted without a policy: the most common one, and TF-IDF with logistic regression, on the same texts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sage_dialog.config import Reference
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.reference.items import replies_of
from sage_dialog.evaluation.reference.likelihoods import LABEL_FIELDS, prediction
from sage_dialog.schemas import REFERENCE_LABELS
from sage_dialog.training_data.annotation import merged_turns

logger = logging.getLogger(__name__)

MAJORITY, TFIDF, TFIDF_SAME = "majority", "tfidf", "tfidf_same"
"""The last is TF-IDF fitted on the dialogues that the policies were trained on, where these are not all."""

BASELINES = (MAJORITY, TFIDF, TFIDF_SAME)

MAX_ITERATIONS = 300
MAX_FEATURES = 30_000
"""Words and pairs of words, the most frequent in training."""

Row = dict[str, Any]


def baseline_labels(items: DataFrame, training: DataFrame, trained: Collection[str], config: Reference) -> DataFrame:
    """Return what baselines predict for the scored replies, as a table of `schemas.REFERENCE_LABELS`.

    They are fitted for each corpus on the replies of its training dialogues. TF-IDF reads what a policy reads: all that
    user and assistant said before the reply. Its features are words and pairs of words with sublinear counts.

    Args:
        items: schemas.REFERENCE_ITEMS.
        training: schemas.CORPUS_DIALOGUES of the training split, without what stands in a held-out split.
        trained: ids of the dialogues that the policies were trained on, on which TF-IDF is fitted once more.
    """
    rows = []
    scored = items[items["scored"]]
    for corpus, of_corpus in scored.groupby("corpus", sort=False):
        examples = training_replies(training[training["corpus"] == corpus], config)
        for field in LABEL_FIELDS:
            labelled = [row for row in to_rows(of_corpus) if row[field] is not None]
            known = [row for row in examples if row[field] is not None]
            if not labelled or len({row[field] for row in known}) < 2:
                logger.info("%s: no %s to learn and predict", corpus, field)
                continue
            counts = Counter(row[field] for row in known)
            shares = {value: float(np.log(count / len(known))) for value, count in counts.items()}
            rows += [prediction(MAJORITY, row, field, shares) for row in labelled]
            same = [row for row in known if row["dialogue_id"] in trained]
            for name, fitted in ((TFIDF, known), (TFIDF_SAME, same)):
                if name == TFIDF_SAME and (len(same) == len(known) or len({row[field] for row in same}) < 2):
                    continue
                classes, scores = _tfidf(fitted, labelled, field)
                rows += [
                    prediction(name, row, field, dict(zip(classes, each, strict=True)))
                    for row, each in zip(labelled, scores.tolist(), strict=True)
                ]
    return from_rows(rows, REFERENCE_LABELS)


def training_replies(training: DataFrame, config: Reference) -> list[Row]:
    """Return the replies of training dialogues as items; only first ones where only these are scored."""
    rows = []
    for row in to_rows(training[["dialogue_id", "corpus", "split", "turns"]]):
        turns = merged_turns(row["turns"])[: config.max_turns]
        replies = [each for each in replies_of(row["dialogue_id"], row["corpus"], row["split"], turns) if each["turn"]]
        rows += replies[:1] if config.replies == "first" else replies
    return rows


def text_before(row: Row) -> str:
    """Return what a policy reads before the reply, without its system prompt."""
    return "\n".join(message["content"] for message in row["history"])


def _tfidf(known: Sequence[Row], labelled: Sequence[Row], field: str) -> tuple[list[str], np.ndarray]:
    """Return the classes, and for each labelled item their log-probabilities."""
    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=MAX_FEATURES),
        LogisticRegression(C=3.0, max_iter=MAX_ITERATIONS),
    )
    try:
        classifier.fit([text_before(row) for row in known], [row[field] for row in known])
    except ValueError as error:  # an empty vocabulary
        raise ValueError(f"{field}: nothing can be learned from {len(known)} training replies: {error}") from error
    return list(classifier[-1].classes_), classifier.predict_log_proba([text_before(row) for row in labelled])
