"""Accuracy of the user emotion that an agent predicts, against the situation's label.

Emotions are compared word for word, by the label that a word means, and among k guesses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from sage_dialog.core.tables import DataFrame, conform, from_rows, to_rows
from sage_dialog.evaluation.replies.emotion_labels import emotion_labels
from sage_dialog.evaluation.statistics import clustered_share, proportion_interval
from sage_dialog.sac import normalize_label
from sage_dialog.schemas import (
    EMOTION_ACCURACY,
    EMOTION_CONFUSION,
    EMOTION_TOP_K,
    MAPPED_EMOTIONS,
    UNMAPPED_EMOTIONS,
)
from sage_dialog.schemas.columns import INT32, STRING, nullable, schema

UNMAPPED, UNNAMED = "(unmapped)", "(none)"  # not among the 32 labels
TOP_KS = (1, 3, 5)
READINGS = schema(
    policy=STRING,
    situation_id=STRING,
    exchange=INT32,
    label=STRING,
    named=nullable(STRING),
    mapped=nullable(STRING),
)


def read_emotions(replies: DataFrame, situations: DataFrame) -> DataFrame:
    """Return the emotion that each reply with blocks predicts, and the situation's label.

    Returns:
        Columns `policy`, `situation_id`, `exchange`, `label`; `named`, the emotion of the state block, null if there
        is none or the blocks do not parse; `mapped`, the label which that means, null if it is in no list.

    Raises:
        ValueError: naming a played situation that `situations` does not hold.
    """
    labels, mapping = _labels(situations), emotion_labels()
    predicted = replies.loc[replies["blocks"], ["policy", "situation_id", "exchange", "u_emotion"]]
    rows = to_rows(predicted.rename(columns={"u_emotion": "named"}))
    for row in rows:
        row["label"] = _label_of(labels, row["situation_id"], f"{row['policy']} played")
        row["mapped"] = mapping.label(row["named"])
    return from_rows(rows, READINGS)


def emotion_accuracy(readings: DataFrame, situations: DataFrame, confidence: float) -> DataFrame:
    """Return the accuracy of the predicted emotion at each exchange, as a table of `schemas.EMOTION_ACCURACY`.

    `n` counts the dialogues that reached the exchange; a reply whose blocks do not parse is wrong. `chance` is one over
    the number of labels in `situations`. The interval is Wilson's: a dialogue has one reply at an exchange.

    Args:
        readings: as returned by `read_emotions`.
    """
    correct = readings.assign(correct=(readings["named"] == readings["label"]).fillna(False))
    counts = correct.groupby(["policy", "exchange"], sort=False)["correct"].agg(n="size", correct="sum").reset_index()
    counts["chance"] = 1 / len(set(_labels(situations).values()))
    return conform(_add_share(_by_exchange(counts), "accuracy", "correct", "n", confidence), EMOTION_ACCURACY)


def majority_share(situations: DataFrame, split: str) -> float:
    """Return the share of the most common emotion among a split's situations: the accuracy of always naming that one.

    Raises:
        ValueError: if the split holds no situation.
    """
    counts = situations.loc[situations["split"] == split, "emotion"].value_counts()
    if not len(counts):
        raise ValueError(f"the table `situations` holds no {split} situation")
    return float(counts.iloc[0] / counts.sum())


def mapped_emotions(readings: DataFrame, confidence: float) -> DataFrame:
    """Return the accuracy by meaning at each exchange, as a table of `schemas.MAPPED_EMOTIONS`.

    `coverage` is the share of the replies with an emotion whose word is in the lists of `emotion_labels`; null if none
    has one. `accuracy` is of all replies: one without an emotion, or with a word outside the lists, is wrong.
    Intervals are Wilson's: a dialogue has one reply at an exchange.
    """
    counted = readings.assign(
        named=readings["named"].notna(),
        mapped=readings["mapped"].notna(),
        correct=(readings["mapped"] == readings["label"]).fillna(False),
    )
    counts = counted.groupby(["policy", "exchange"], sort=False).agg(
        n=("named", "size"), named=("named", "sum"), mapped=("mapped", "sum"), correct=("correct", "sum")
    )
    counts = _by_exchange(counts.reset_index()).assign(mapping=emotion_labels().version)
    coverage = _add_share(counts, "coverage", "mapped", "named", confidence)
    coverage = coverage.rename(columns={"low": "coverage_low", "high": "coverage_high"})
    return conform(_add_share(coverage, "accuracy", "correct", "n", confidence), MAPPED_EMOTIONS)


def unmapped_emotions(readings: DataFrame) -> DataFrame:
    """Return the words that are in no list, as a table of `schemas.UNMAPPED_EMOTIONS`, most frequent first."""
    n = readings.groupby("policy", sort=False).size()
    unmapped = readings[readings["named"].notna() & readings["mapped"].isna()]
    counts = unmapped.groupby(["policy", "named"]).size().rename("count").reset_index()
    counts = counts.assign(n=counts["policy"].map(n), place=n.index.get_indexer(counts["policy"]))
    counts = counts.sort_values(["place", "count", "named"], ascending=[True, False, True])
    return conform(counts.rename(columns={"named": "emotion"}), UNMAPPED_EMOTIONS)


def emotion_confusion(readings: DataFrame, confidence: float) -> DataFrame:
    """Return how often each label is read as what at the first exchange, as a table of `schemas.EMOTION_CONFUSION`.

    The label describes the situation; what the user feels at later exchanges may differ. `predicted` is a label,
    `UNMAPPED` if the word is in no list, `UNNAMED` if there is none. Labels come in the order of the lists, those of
    similar meaning together. Intervals are Wilson's, one reply a situation.
    """
    first = readings[readings["exchange"] == 1]
    predicted = first["mapped"].where(first["mapped"].notna(), np.where(first["named"].isna(), UNNAMED, UNMAPPED))
    cells = first.assign(predicted=predicted).groupby(["policy", "label", "predicted"]).size()
    cells = cells.rename("count").reset_index()
    n = first.groupby(["policy", "label"]).size().rename("n").reset_index()
    labels = pd.Index([*emotion_labels().labels, UNMAPPED, UNNAMED, *sorted(set(first["label"]))]).unique()
    orders = {"policy": pd.Index(first["policy"].unique()), "label": labels, "predicted": labels}
    cells = cells.merge(n, on=["policy", "label"]).sort_values(
        list(orders), key=lambda column: pd.Series(orders[column.name].get_indexer(column), column.index)
    )
    return conform(_add_share(cells, "share", "count", "n", confidence), EMOTION_CONFUSION)


def emotion_top_k(candidates: Mapping[str, DataFrame], situations: DataFrame, confidence: float) -> DataFrame:
    """Return how often the label is among the k emotions that a policy names most, as `schemas.EMOTION_TOP_K`.

    A policy writes one emotion a reply, without scores. Its guesses are therefore counted over samples: the candidates
    that the search drew for the first reply to each situation, all from the same prompt. Emotions are ranked by how
    many candidates name them, as the labels they mean; a word outside the lists takes a rank of its own and is wrong,
    a candidate that names nothing takes none. Emotions named equally often are in random order, so a tie at rank k
    counts as the share of orders that are right. The interval takes situations as drawn.

    These are situations of the search. Those that an earlier iteration searched, and the policy was trained on, have
    rows of their own.

    Args:
        candidates: tables of `schemas.CANDIDATES` by the policy that they were drawn from, in the order of iterations.

    Raises:
        ValueError: naming a searched situation that `situations` does not hold.
    """
    labels, mapping = _labels(situations), emotion_labels()
    rows = []
    trained_on: set[str] = set()
    for policy, table in candidates.items():
        first = table.loc[table["turn"] == 1, ["situation_id", "u_emotion"]]
        guesses = {
            situation: Counter(mapping.label(emotion) or f"unmapped {emotion}" for emotion in named.dropna() if emotion)
            for situation, named in first.groupby("situation_id")["u_emotion"]
        }
        drawn = first.groupby("situation_id").size()
        for searched_before in (False, True):
            searched = [situation for situation in guesses if (situation in trained_on) is searched_before]
            label_of = {situation: _label_of(labels, situation, f"{policy} searched") for situation in searched}
            for k in TOP_KS if searched else ():
                right = [_share_of_orders(guesses[situation], label, k) for situation, label in label_of.items()]
                share = clustered_share(right, [1] * len(searched), confidence)
                rows.append(
                    {
                        "policy": policy,
                        "searched_before": searched_before,
                        "k": k,
                        "candidates": int(drawn[searched].sum()) / share.n,
                        "emotions": sum(len(guesses[situation]) for situation in searched) / share.n,
                        "accuracy": share.value,
                        "chance": min(1.0, k / len(set(labels.values()))),
                        **vars(share),
                    }
                )
        trained_on |= set(guesses)
    return from_rows(rows, EMOTION_TOP_K)


def _share_of_orders(guesses: Counter[str], label: str, k: int) -> float:
    """Return the share of the orders by count in which the label is among the first k."""
    if not guesses[label]:
        return 0.0
    before = sum(count > guesses[label] for count in guesses.values())
    tied = sum(count == guesses[label] for count in guesses.values())
    return min(1.0, max(0.0, (k - before) / tied))


def _labels(situations: DataFrame) -> dict[str, str]:
    """Return the label of each situation, as blocks write labels."""
    pairs = zip(situations["situation_id"], situations["emotion"], strict=True)
    return {situation: normalize_label(emotion) or emotion for situation, emotion in pairs}


def _label_of(labels: Mapping[str, str], situation: str, where: str) -> str:
    if situation not in labels:
        raise ValueError(f"{where} situation {situation!r}, which the table `situations` does not hold")
    return labels[situation]


def _by_exchange(counts: DataFrame) -> DataFrame:
    """Return rows by policy, in order of appearance, and by exchange, sorted."""
    return counts.assign(place=pd.factorize(counts["policy"])[0]).sort_values(["place", "exchange"])


def _add_share(counts: DataFrame, name: str, successes: str, n: str, confidence: float) -> DataFrame:
    """Return counts with the column `name`, the share of successes, and its Wilson interval `low` and `high`."""
    pairs = list(zip(counts[successes].tolist(), counts[n].tolist(), strict=True))
    intervals = [proportion_interval(*pair, confidence) if pair[1] else (None, None) for pair in pairs]
    return counts.assign(
        **{name: [hits / size if size else None for hits, size in pairs]},
        low=[low for low, _ in intervals],
        high=[high for _, high in intervals],
    )
