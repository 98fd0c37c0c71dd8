"""Figures of the reference evaluation with their intervals, and paired tests between policies.

Dialogues are what was drawn at random: intervals are by the bootstrap over dialogues, and tests compare the sums of
whole dialogues. All p-values of a corpus are adjusted together by Holm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from sage_dialog.config import Reference
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.reference.baselines import BASELINES
from sage_dialog.evaluation.reference.likelihoods import GOLD, LABEL_FIELDS, MARGINAL, PLAIN, SHUFFLED
from sage_dialog.evaluation.reference.replies import HUMAN, bleu_2, distinct_at, rouge_l, words_of
from sage_dialog.evaluation.statistics import holm, sign_test
from sage_dialog.schemas import REFERENCE_RESULTS

BITS_PER_BYTE = "bits_per_byte"
NAMES = {"u_emotion": "emotion", "a_motivation": "strategy"}
"""Names of the labels in measures."""

TOP_K = 5
"""Guesses in which an emotion is counted as found, beside the first."""

UNRANKED = 10**6
"""In place of the rank of a label that training lacks."""

NO_PSEUDO_COUNTS = np.zeros((0, 2))

Row = dict[str, Any]


def reference_results(
    likelihoods: DataFrame, labels: DataFrame, baselines: DataFrame, items: DataFrame, replies: DataFrame,
    config: Reference, seed: int,
) -> DataFrame:  # fmt: skip
    """Return all figures and comparisons, as a table of `schemas.REFERENCE_RESULTS`.

    Args:
        likelihoods, labels, baselines, items, replies: tables of the schemas REFERENCE_LIKELIHOODS, REFERENCE_LABELS
            (twice), REFERENCE_ITEMS and REFERENCE_REPLIES.
    """
    bootstrap = Bootstrap(config.confidence, config.replicates, seed)
    predicted = pd.concat([baselines, labels], ignore_index=True)
    rows: list[Row] = []
    for corpus in items["corpus"].unique():
        measure = _Measures(str(corpus), bootstrap, config)
        measure.likelihoods(likelihoods[likelihoods["corpus"] == corpus])
        measure.labels(predicted[predicted["corpus"] == corpus])
        measure.replies(replies[replies["corpus"] == corpus], items)
        tested = [row for row in measure.rows if row.get("p_value") is not None]
        for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
            row["p_adjusted"] = adjusted
        rows += measure.rows
    return from_rows(rows, REFERENCE_RESULTS)


class _Measures:
    def __init__(self, corpus: str, bootstrap: Bootstrap, config: Reference) -> None:
        self._corpus = corpus
        self._bootstrap = bootstrap
        self._config = config
        self.rows: list[Row] = []

    def likelihoods(self, table: DataFrame) -> None:
        """Add bits per byte on the replies that have all likelihoods."""
        arms = list(table[["policy", "condition"]].drop_duplicates().itertuples(index=False, name=None))
        complete = table.groupby("item_id")["bits"].transform("size") == len(arms)
        table = table[complete]
        of_arm = {arm: rows for arm, rows in table.groupby(["policy", "condition"], sort=False)}
        for arm in arms:
            if arm not in of_arm:
                continue
            rows = of_arm[arm]
            bounds = set(rows["estimate"])
            self._add(
                BITS_PER_BYTE,
                rows,
                rows["bits"],
                rows["bytes"],
                policy=arm[0],
                condition=arm[1],
                estimate=max(bounds, key=len),
                chain_mass=None if rows["chain_mass"].isna().all() else float(rows["chain_mass"].mean()),
            )
        own = {policy: MARGINAL if (policy, MARGINAL) in of_arm else PLAIN for policy, _ in arms}
        pairs = [((a, own[a]), (b, own[b])) for a, b in self._config.pairs if a in own and b in own]
        pairs += [((policy, SHUFFLED), (policy, GOLD)) for policy in own]
        for first, second in pairs:
            if first in of_arm and second in of_arm:
                both = of_arm[first].merge(of_arm[second], on="item_id", suffixes=("_a", "_b"))
                self._compare(
                    BITS_PER_BYTE, second, first, both["dialogue_id_a"], both["bits_b"], both["bits_a"], both["bytes_a"]
                )

    def labels(self, table: DataFrame) -> None:
        """Add accuracy and F1 of predicted labels on the replies that all policies predict."""
        for field in LABEL_FIELDS:
            of_field = table[table["field"] == field]
            policies = list(of_field["policy"].unique())
            complete = of_field.groupby("item_id")["policy"].transform("size") == len(policies)
            by_policy = {policy: rows for policy, rows in of_field[complete].groupby("policy", sort=False)}
            name = NAMES[field]
            for policy, rows in by_policy.items():
                one = pd.Series(1, index=rows.index)
                self._add(f"{name}_accuracy", rows, _within(rows, 1), one, policy=policy)
                if field == "u_emotion":
                    self._add(f"{name}_top_{TOP_K}", rows, _within(rows, TOP_K), one, policy=policy)
                for average in ("macro", "weighted"):
                    known = sorted(set(rows["gold"]))
                    value = f1_score(rows["gold"], rows["predicted"], average=average, labels=known, zero_division=0.0)
                    self._row(f"{name}_f1_{average}", rows, value=float(value), policy=policy)
            own = [policy for policy in by_policy if policy not in BASELINES]
            pairs = [(base, policy) for policy in own for base in BASELINES if base in by_policy]
            pairs += [(a, b) for a, b in self._config.pairs if a in own and b in own]
            for first, second in pairs:
                for measure, k in ((f"{name}_accuracy", 1), (f"{name}_top_{TOP_K}", TOP_K)):
                    if k == 1 or field == "u_emotion":
                        self._compare_labels(measure, by_policy[second], by_policy[first], second, first, k)

    def replies(self, table: DataFrame, items: DataFrame) -> None:
        """Add measures of sampled replies on the replies that all policies wrote."""
        policies = list(table["policy"].unique())
        complete = table.groupby("item_id")["policy"].transform("size") == len(policies)
        table = table[complete].merge(items[["item_id", "reply"]], on="item_id")
        by_policy = {policy: rows for policy, rows in table.groupby("policy", sort=False)}
        texts = {policy: rows["text"].tolist() for policy, rows in by_policy.items()}
        distinct = {order: distinct_at(texts, order) for order in (1, 2)}
        for policy, rows in by_policy.items():
            one = pd.Series(1, index=rows.index)
            if policy != HUMAN:
                self._row("bleu_2", rows, value=bleu_2(texts[policy], rows["reply"].tolist()), policy=policy)
                overlap = [rouge_l(text, human) for text, human in zip(rows["text"], rows["reply"], strict=True)]
                self._add("rouge_l", rows, pd.Series(overlap, index=rows.index), one, policy=policy)
                if rows["invalid_reason"].notna().any():
                    self._add("invalid_share", rows, rows["invalid_reason"].notna().astype(int), one, policy=policy)
            for order, shares in distinct.items():
                if policy in shares:
                    self._row(f"distinct_{order}", rows, value=shares[policy], policy=policy)
            self._add("words", rows, rows["text"].map(lambda text: len(words_of(text))), one, policy=policy)

    def _add(self, measure: str, rows: DataFrame, parts: Any, sizes: Any, **fields: Any) -> None:
        """Add a ratio of sums with its interval by the bootstrap over dialogues."""
        sums = _by_dialogue(rows["dialogue_id"], parts, sizes)
        value = float(sums[:, 0].sum() / sums[:, 1].sum())
        low, high = self._interval(sums, value, measure, fields["policy"], fields.get("condition") or "")
        self._row(measure, rows, value=value, low=low, high=high, **fields)

    def _row(self, measure: str, rows: DataFrame, **fields: Any) -> None:
        counts = {"n": len(rows), "dialogues": rows["dialogue_id"].nunique()}
        self.rows.append({"corpus": self._corpus, "measure": measure, **counts, **fields})

    def _interval(self, sums: np.ndarray, value: float, *item: str) -> tuple[float, float]:
        totals = self._bootstrap.totals(sums, NO_PSEUDO_COUNTS, 0.0, "reference", self._corpus, *item)
        return self._bootstrap.interval(totals[:, 0] / totals[:, 1], value)

    def _compare(
        self, measure: str, second: tuple[str, str], first: tuple[str, str], dialogues: Any, of_second: Any,
        of_first: Any, sizes: Any,
    ) -> None:  # fmt: skip
        """Add the difference of two ratios with the same denominators, and a permutation test over dialogues."""
        sums = _by_dialogue(dialogues, of_second - of_first, sizes)
        total = float(sums[:, 1].sum())
        difference = float(sums[:, 0].sum()) / total
        item = (*second, *first)
        low, high = self._interval(sums, difference, measure, "difference", *item)
        self.rows.append(
            {
                **{"corpus": self._corpus, "measure": measure, "policy": second[0], "condition": second[1]},
                **{"n": len(dialogues), "dialogues": len(sums), "value": float(of_second.sum()) / total},
                **{"against": first[0], "against_condition": first[1], "difference": difference},
                **{"difference_low": low, "difference_high": high, "test": "permutation"},
                "p_value": permutation_p(sums[:, 0], self._bootstrap, measure, self._corpus, *item),
            }
        )

    def _compare_labels(
        self, measure: str, rows: DataFrame, others: DataFrame, policy: str, against: str, k: int
    ) -> None:
        """Add the difference of two accuracies, and McNemar's exact test with dialogues as its units."""
        both = rows.merge(others, on="item_id", suffixes=("_b", "_a"))
        right_b, right_a = (_within(both, k, suffix) for suffix in ("_b", "_a"))
        sums = _by_dialogue(both["dialogue_id_b"], right_b - right_a, pd.Series(1, index=both.index))
        difference = float(sums[:, 0].sum() / sums[:, 1].sum())
        low, high = self._interval(sums, difference, measure, "difference", policy, against)
        self.rows.append(
            {
                **{"corpus": self._corpus, "measure": measure, "policy": policy, "n": len(both)},
                **{"dialogues": len(sums), "value": float(right_b.mean()), "against": against},
                **{"difference": difference, "difference_low": low, "difference_high": high, "test": "sign"},
                "p_value": sign_test(int((sums[:, 0] < 0).sum()), int((sums[:, 0] > 0).sum())),
            }
        )


def permutation_p(differences: np.ndarray, bootstrap: Bootstrap, *item: str) -> float:
    """Return the two-sided p-value of the sum of paired differences under exchanges of the two sides of a pair."""
    draw = generator(bootstrap.seed, "permutation", *item)
    signs = draw.integers(0, 2, (bootstrap.replicates, len(differences))) * 2 - 1
    # einsum instead of @: sums must not depend on the number of threads of a linear algebra library.
    sums = np.abs(np.einsum("rd,d->r", signs, differences))
    observed = abs(float(differences.sum()))
    reached = int((sums >= observed - 1e-9 * max(1.0, observed)).sum())
    return (1 + reached) / (1 + bootstrap.replicates)


def _by_dialogue(dialogues: Any, parts: Any, sizes: Any) -> np.ndarray:
    """Return the sums of each dialogue, a row for each in the order of their ids."""
    table = pd.DataFrame(
        {"dialogue": list(dialogues), "part": np.asarray(parts, float), "size": np.asarray(sizes, float)}
    )
    sums: np.ndarray = table.groupby("dialogue", sort=True)[["part", "size"]].sum().to_numpy()
    return sums


def _within(rows: DataFrame, k: int, suffix: str = "") -> Any:
    """Return 1 where the gold label is among the k first, else 0; a label that training lacks is never."""
    return (rows[f"rank{suffix}"].fillna(UNRANKED) <= k).astype(int)
