"""Actions, lengths and questions of the agents' replies (paper §4, Figure 3)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping

import pandas as pd

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.statistics import Estimate, clustered_mean, clustered_share, counted_share
from sage_dialog.schemas import ACTION_DISTRIBUTION, ACTION_TRANSITIONS, REPLY_STATISTICS

MOST_VALUES = 10
OPENING_WORDS = 3
NO_LABEL = "null"
ACTION_FIELDS = ("a_motivation", "a_emotion")
_QUESTION = re.compile(r"\?[?!]*")

Group = tuple[Hashable, ...]


def action_distribution(replies: DataFrame, confidence: float) -> DataFrame:
    """Return how often each policy means to do and feel what, as a table of `schemas.ACTION_DISTRIBUTION`.

    Shares are of the replies whose blocks parse; an empty label counts as "null". Frequent values come first. A policy
    without a reply that parses has no row. Intervals take dialogues as clusters.
    """
    parsed = replies[replies["blocks"] & replies["invalid_reason"].isna()]
    rows = []
    for policy, of_policy in parsed.groupby("policy", sort=False):
        for field in ACTION_FIELDS:
            labels = of_policy[["situation_id"]].assign(label=of_policy[field].fillna(NO_LABEL))
            for value, count, share in _label_shares(labels, confidence)[()]:
                place = {"policy": policy, "field": field, "count": count}
                rows.append({**place, **vars(share), "share": share.value, "value": value})
    return from_rows(rows, ACTION_DISTRIBUTION)


def action_transitions(replies: DataFrame, confidence: float) -> DataFrame:
    """Return what each policy means to do after what, as a table of `schemas.ACTION_TRANSITIONS`.

    A step goes from one reply of a dialogue to the next; both have blocks that parse. `share` is of the steps from
    `before`, with dialogues as clusters. `expected` is the share of `after` among all steps: the share if the reply
    before made no difference. Both `before` and `expected` are null for the first reply. Between the ten most frequent
    labels a step that was never made has its row, with a count of 0. Frequent steps come first.
    """
    rows = []
    for policy, of_policy in replies[replies["blocks"]].groupby("policy", sort=False):
        for field in ACTION_FIELDS:
            steps = _steps(of_policy, field)
            moves = Counter(steps.loc[steps["before"] != "", "label"])
            totals = Counter(steps["before"])
            most = frequent(moves)
            shares = _label_shares(steps, confidence, by=["before"], also={(before,): most for before in most})
            for before in sorted(totals, key=lambda before: (before != "", -totals[before], before)):
                for after, count, share in shares[before,]:
                    place = {"policy": policy, "field": field, "before": before or None, "after": after, "count": count}
                    expected = moves[after] / moves.total() if before else None
                    rows.append({**place, **vars(share), "share": share.value, "expected": expected})
    return from_rows(rows, ACTION_TRANSITIONS)


def _steps(replies: DataFrame, field: str) -> DataFrame:
    """Return the steps of one policy as columns `situation_id`, `before` ("" for the first reply) and `label`."""
    parsed = replies["invalid_reason"].isna()
    labels = replies[field].fillna(NO_LABEL)
    before = labels.shift().where(replies["exchange"] > 1, "")
    follows = (replies["exchange"] == 1) | parsed.shift(fill_value=False)
    return replies[["situation_id"]].assign(before=before, label=labels)[parsed & follows]


def frequent(shares: Mapping[str, float]) -> list[str]:
    """Return the ten labels of the largest shares or counts, largest first."""
    return sorted(shares, key=lambda label: (-shares[label], label))[:MOST_VALUES]


def _label_shares(
    labels: DataFrame, confidence: float, by: list[str] | None = None, also: Mapping[Group, list[str]] | None = None
) -> dict[Group, list[tuple[str, int, Estimate]]]:
    """Return each label of a group with its count and share, frequent ones first; dialogues are clusters.

    There may be many labels. Dialogues without a label are counted by their size alone, not looked at for each label.

    Args:
        labels: columns `situation_id`, `label` and those of `by`.
        by: columns that define a group; without it all rows are one.
        also: labels that have an entry in a group even if they never occur.
    """
    counts = labels.groupby([*(by or []), "situation_id", "label"], sort=False).size()
    dialogues: dict[Group, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for (*group, situation, label), count in zip(counts.index.tolist(), counts.tolist(), strict=True):
        dialogues[tuple(group)][situation][label] = count
    return {
        group: _shares_of_group(of_group.values(), confidence, (also or {}).get(group, ()))
        for group, of_group in dialogues.items()
    }


def _shares_of_group(
    dialogues: Iterable[Mapping[str, int]], confidence: float, also: Iterable[str]
) -> list[tuple[str, int, Estimate]]:
    totals: Counter[str] = Counter(dict.fromkeys(also, 0))
    sizes: Counter[int] = Counter()
    with_label: dict[str, Counter[tuple[float, int]]] = defaultdict(Counter)  # (count of the label, size) of dialogues
    for counts in dialogues:
        size = sum(counts.values())
        sizes[size] += 1
        for label, count in counts.items():
            totals[label] += count
            with_label[label][count, size] += 1
    shares = []
    for label, total in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        clusters: Counter[tuple[float, int]] = Counter({(0, size): number for size, number in sizes.items()})
        for (times, size), number in with_label[label].items():
            clusters[times, size] += number
            clusters[0, size] -= number
        shares.append((label, total, counted_share(+clusters, confidence)))
    return shares


def reply_statistics(rollouts: DataFrame, replies: DataFrame, confidence: float) -> DataFrame:
    """Return lengths and questions of the replies, as a table of `schemas.REPLY_STATISTICS`.

    mean_words: words of a reply, split at white space. question_share: replies that end in a question mark.
    questions_per_reply: question marks in a reply, anywhere; several in a row ("???", "?!") are one.
    replies_per_dialogue: length of the dialogues. Intervals take dialogues as clusters. A policy without any reply has
    only the last one.
    """
    counts = ["replies", "words", "questions", "asks"]
    measured = [
        (1, len(text.split()), len(_QUESTION.findall(text)), text.rstrip().endswith("?")) for text in replies["text"]
    ]
    counted = replies[["policy", "situation_id"]].join(pd.DataFrame(measured, replies.index, counts))
    dialogues = rollouts[["policy", "situation_id"]].drop_duplicates()
    sums = dialogues.merge(counted.groupby(["policy", "situation_id"], as_index=False).sum(), how="left")
    rows = []
    for policy, of_policy in sums.groupby("policy", sort=False):
        sizes, words, questions, asks = of_policy[counts].fillna(0).astype(int).to_numpy().T.tolist()
        estimates = {"replies_per_dialogue": clustered_mean(sizes, [1] * len(sizes), confidence)}
        if any(sizes):
            estimates["mean_words"] = clustered_mean(words, sizes, confidence)
            estimates["questions_per_reply"] = clustered_mean(questions, sizes, confidence)
            estimates["question_share"] = clustered_share(asks, sizes, confidence)
        rows += [
            {"policy": policy, "statistic": statistic, **vars(estimate)} for statistic, estimate in estimates.items()
        ]
    return from_rows(rows, REPLY_STATISTICS)


def opening(text: str) -> tuple[str, ...]:
    """Return the first three words, in lower case, split at white space."""
    return tuple(text.lower().split()[:OPENING_WORDS])
