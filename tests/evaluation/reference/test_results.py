"""Tests and figures of the reference evaluation, against calculations of their own."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from sage_dialog.config import Reference
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.reference.baselines import baseline_labels
from sage_dialog.evaluation.reference.likelihoods import prediction
from sage_dialog.evaluation.reference.replies import bleu_2, distinct_at, rouge_l
from sage_dialog.evaluation.reference.results import permutation_p, reference_results
from sage_dialog.schemas import REFERENCE_ITEMS, REFERENCE_LABELS, REFERENCE_LIKELIHOODS, REFERENCE_REPLIES

CONFIG = Reference.from_base(policies=["sage_1_plain", "sage_1"], pairs=[["sage_1_plain", "sage_1"]], replicates=4000)


def test_the_permutation_test_is_the_exact_one_up_to_its_draws() -> None:
    differences = np.array([3.0, 1.0, -0.5, 2.0, 2.5, -1.0, 1.5])
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9)
    found = permutation_p(differences, Bootstrap(0.95, 20_000, 0), "bits")
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))
    assert permutation_p(np.zeros(5), Bootstrap(0.95, 300, 0), "bits") == 1.0
    assert permutation_p(np.ones(40), Bootstrap(0.95, 300, 0), "bits") == 1 / 301


def item(dialogue: int, turn: int, **labels: str) -> dict[str, Any]:
    row = {"item_id": f"d{dialogue}#{turn}", "dialogue_id": f"d{dialogue}", "corpus": "own"}
    return {**row, "split": "valid", "turn": turn, "scored": True, "history": [], "reply": "So it is.", **labels}


def results(rows: list[dict[str, Any]], labels: list[dict[str, Any]], items: list[dict[str, Any]]) -> DataFrame:
    empty = from_rows([], REFERENCE_LABELS)
    return reference_results(
        from_rows(rows, REFERENCE_LIKELIHOODS), from_rows(labels, REFERENCE_LABELS), empty,
        from_rows(items, REFERENCE_ITEMS), from_rows([], REFERENCE_REPLIES), CONFIG, 0,
    )  # fmt: skip


def likelihood(row: dict[str, Any], policy: str, bits: float, condition: str) -> dict[str, Any]:
    names = {name: row[name] for name in ("item_id", "dialogue_id", "corpus")}
    mass = {} if condition == "plain" else {"chain_mass": 0.9}
    return {
        **names,
        "policy": policy,
        "condition": condition,
        "bits": bits,
        "bytes": 10,
        "chains": 1,
        **mass,
        "estimate": "exact",
    }


def test_replies_of_one_dialogue_are_no_more_evidence_than_the_dialogue() -> None:
    """Six dialogues of ten equal replies each: p is that of six pairs, not of sixty."""
    items = [item(dialogue, turn) for dialogue in range(6) for turn in range(1, 21, 2)]
    rows = [likelihood(row, "sage_1_plain", 30.0, "plain") for row in items]
    rows += [likelihood(row, "sage_1", 28.0, "marginal") for row in items]
    (row,) = [row for row in to_rows(results(rows, [], items)) if row["against"]]
    assert row["difference"] == pytest.approx(-0.2) and row["dialogues"] == 6 and row["n"] == 60
    assert row["p_value"] == pytest.approx(2 / 2**6, abs=0.01) and row["p_adjusted"] == row["p_value"]
    labels = [
        prediction("sage_1_plain", {**row, "u_emotion": "sad"}, "u_emotion", {"sad": -2.0, "calm": -1.0})
        for row in items
    ]
    labels += [
        prediction("sage_1", {**row, "u_emotion": "sad"}, "u_emotion", {"sad": -1.0, "calm": -2.0}) for row in items
    ]
    compared = [
        row for row in to_rows(results(rows, labels, items)) if row["measure"] == "emotion_accuracy" and row["against"]
    ]
    assert [row["p_value"] for row in compared] == [2 / 2**6] and compared[0]["difference"] == 1.0


def test_a_reply_that_one_policy_lacks_counts_for_none() -> None:
    items = [item(dialogue, 1) for dialogue in range(8)]
    rows = [likelihood(row, "sage_1_plain", 30.0, "plain") for row in items]
    rows += [likelihood(row, "sage_1", 28.0, "marginal") for row in items[1:]]
    figures = {row["policy"]: row["n"] for row in to_rows(results(rows, [], items)) if row["against"] is None}
    assert figures == {"sage_1_plain": 7, "sage_1": 7}


def test_f1_and_accuracy_are_those_of_the_counts() -> None:
    gold = ["sad", "sad", "sad", "calm", "calm", "angry"]
    predicted = ["sad", "sad", "calm", "calm", "sad", "sad"]
    items = [item(number, 1) for number in range(6)]
    labels = [
        prediction("sage_1", {**row, "u_emotion": one}, "u_emotion", {name: float(name == other) for name in set(gold)})
        for row, one, other in zip(items, gold, predicted, strict=True)
    ]  # fmt: skip
    found = {row["measure"]: row["value"] for row in to_rows(results([], labels, items))}
    f1 = {"sad": 2 * 2 / (3 + 4), "calm": 2 * 1 / (2 + 2), "angry": 0.0}
    assert found["emotion_accuracy"] == pytest.approx(0.5) and found["emotion_top_5"] == 1.0
    assert found["emotion_f1_macro"] == pytest.approx(sum(f1.values()) / 3)
    assert found["emotion_f1_weighted"] == pytest.approx((3 * f1["sad"] + 2 * f1["calm"]) / 6)


def test_a_label_that_training_lacks_is_never_found() -> None:
    row = prediction("sage_1", {**item(1, 1), "u_emotion": "jealous"}, "u_emotion", {"sad": -1.0, "calm": -1.0})
    assert row["rank"] is None and row["probability"] == 0.0 and row["predicted"] == "calm"
    known = prediction("sage_1", {**item(1, 1), "u_emotion": "sad"}, "u_emotion", {"sad": -2.0, "calm": -1.0})
    assert known["rank"] == 2 and known["probability"] == pytest.approx(1 / (1 + np.e))


def test_words_of_replies_are_compared_with_those_of_people() -> None:
    assert bleu_2(["so it is ."], ["so it is ."]) == pytest.approx(1.0) and rouge_l(
        "so it is", "so it was"
    ) == pytest.approx(2 / 3)
    # 4 of 4 words and 1 of 3 pairs are the person's; equal length
    assert bleu_2(["is it so ."], ["so it is ."]) < 0.6
    texts = {"short": ["a b a b"], "long": ["a b c d e f g h", "a b c d e f g h"]}
    distinct = distinct_at(texts, 1)
    drawn = [len({*each}) for each in itertools.combinations("abcdefgh" * 2, 4)]
    assert distinct == pytest.approx({"short": 0.5, "long": np.mean(drawn) / 4})
    assert distinct_at({"one": [""]}, 1) == {}


def test_baselines_learn_from_training_dialogues_what_their_texts_tell(
    corpus: DataFrame, items: DataFrame, config: Reference
) -> None:
    """The feeling is in the words of the user; strategies follow no word."""
    train = corpus[corpus["split"] == "train"]
    everything = set(train["dialogue_id"])
    found = to_rows(baseline_labels(items, train, everything, config))
    by = {(policy, field): [row["rank"] == 1 for row in found if (row["policy"], row["field"]) == (policy, field)]
          for policy in ("majority", "tfidf") for field in ("u_emotion", "a_motivation")}  # fmt: skip
    assert all(by["tfidf", "u_emotion"]) and not all(by["majority", "u_emotion"])
    assert {len(each) for each in by.values()} == {10}
    assert {row["policy"] for row in found} == {"majority", "tfidf"}
    assert baseline_labels(items, corpus[:0], set(), config).empty


def test_tf_idf_is_fitted_once_more_on_the_dialogues_of_the_policies(
    corpus: DataFrame, items: DataFrame, config: Reference
) -> None:
    train = corpus[corpus["split"] == "train"]
    trained = set(train["dialogue_id"].iloc[: len(train) // 2])
    both = baseline_labels(items, train, trained, config)
    assert set(both["policy"]) == {"majority", "tfidf", "tfidf_same"}
    alone = baseline_labels(items, train[train["dialogue_id"].isin(trained)], trained, config)
    same, expected = ([{**row, "policy": ""} for row in to_rows(table) if row["policy"] == name]
                      for table, name in ((both, "tfidf_same"), (alone, "tfidf")))  # fmt: skip
    assert same == expected and same
