"""What the agent's replies look like: their actions, lengths, questions, repetitions (paper §4, Figure 3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.evaluation.rollouts import Reply, replies_by_dialogue
from sage_dialog.evaluation.statistics import Estimate, clustered_mean, clustered_share, counted_share

if TYPE_CHECKING:
    import pyarrow as pa

MOST_VALUES = 10
OPENING_WORDS = 3
NO_LABEL = "null"
_QUESTION = re.compile(r"\?[?!]*")

ACTION_FIELDS: dict[str, Callable[[Reply], str | None]] = {
    "a_motivation": lambda reply: reply.chain.action.motivation if reply.chain else None,
    "a_emotion": lambda reply: reply.chain.action.emotion if reply.chain else None,
}


def action_distribution(
    rollouts: Mapping[str, pa.Table], with_blocks: Sequence[str], confidence: float
) -> list[dict[str, Any]]:
    """How often a policy means to do and feel what, as rows of `schemas.ACTION_DISTRIBUTION`, frequent values first.

    Shares are of the replies whose blocks parse; an empty label counts as "null". A policy without a reply
    that parses has no row. Intervals take dialogues as clusters.
    """
    rows = []
    for policy in with_blocks:
        dialogues = replies_by_dialogue(rollouts[policy]).values()
        for name, label in ACTION_FIELDS.items():
            labels = _Labels()
            for replies in dialogues:
                labels.add(Counter(label(reply) or NO_LABEL for reply in replies if reply.chain))
            rows += [
                {
                    "policy": policy,
                    "field": name,
                    "value": value,
                    "n": share.n,
                    "count": count,
                    "share": share.value,
                    "low": share.low,
                    "high": share.high,
                }
                for value, count, share in labels.shares(confidence)
            ]
    return rows


def action_transitions(
    rollouts: Mapping[str, pa.Table], with_blocks: Sequence[str], confidence: float
) -> list[dict[str, Any]]:
    """What a policy means to do next after what, as rows of `schemas.ACTION_TRANSITIONS`, frequent ones first.

    A step goes from one reply of a dialogue to the next; both have blocks that parse. `share` is of the steps from
    `before`, with dialogues as clusters. `expected` is the share of `after` among all steps: what it would be if the
    reply before made no difference. In place of a reply before the first one stands null; `expected` is null there.
    Between the ten most frequent labels a step that was never made has its row, with a count of 0.
    """
    rows = []
    for policy in with_blocks:
        dialogues = replies_by_dialogue(rollouts[policy]).values()
        for name, label in ACTION_FIELDS.items():
            steps: dict[str | None, _Labels] = {}
            moves: Counter[str] = Counter()
            for replies in dialogues:
                taken: dict[str | None, Counter[str]] = {}
                for before, after in _steps(replies, label):
                    taken.setdefault(before, Counter())[after] += 1
                for before, labels in taken.items():
                    steps.setdefault(before, _Labels()).add(labels)
                    moves.update(labels if before is not None else {})
            befores = sorted(
                steps, key=lambda before: (before is not None, -steps[before].totals.total(), before or "")
            )
            often = frequent(moves)
            rows += [
                {
                    "policy": policy,
                    "field": name,
                    "before": before,
                    "after": after,
                    "n": share.n,
                    "count": count,
                    "share": share.value,
                    "low": share.low,
                    "high": share.high,
                    "expected": None if before is None else moves[after] / moves.total(),
                }
                for before in befores
                for after, count, share in steps[before].shares(confidence, often if before in often else ())
            ]
    return rows


def frequent(shares: Mapping[str, float]) -> list[str]:
    """The ten labels of the largest shares or counts, in that order."""
    return sorted(shares, key=lambda label: (-shares[label], label))[:MOST_VALUES]


class _Labels:
    """Labels counted over dialogues. Of a label only the dialogues that hold it are looked at: there may be many."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()  # how many dialogues have so many labels
        self._holding: dict[str, Counter[tuple[float, int]]] = {}  # (times this label, labels) of dialogues

    def add(self, labels: Counter[str]) -> None:
        """Count one dialogue's."""
        size = labels.total()
        self.totals.update(labels)
        self._sizes[size] += 1
        for label, count in labels.items():
            self._holding.setdefault(label, Counter())[count, size] += 1

    def shares(self, confidence: float, asked: Collection[str] = ()) -> Iterator[tuple[str, int, Estimate]]:
        """Each label, and each of `asked`, with its count and share, frequent ones first; dialogues are clusters."""
        totals = dict.fromkeys(asked, 0) | self.totals
        for label, count in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
            clusters: Counter[tuple[float, int]] = Counter({(0, size): found for size, found in self._sizes.items()})
            for (times, size), found in self._holding.get(label, {}).items():
                clusters[times, size] += found
                clusters[0, size] -= found
            yield label, count, counted_share(+clusters, confidence)


def _steps(replies: Sequence[Reply], label: Callable[[Reply], str | None]) -> Iterator[tuple[str | None, str]]:
    """(label before, label) of every reply that has blocks, and blocks before it; (None, label) of the first one."""
    for place, reply in enumerate(replies):
        if reply.chain and (place == 0 or replies[place - 1].chain):
            yield (label(replies[place - 1]) or NO_LABEL) if place else None, label(reply) or NO_LABEL


def reply_statistics(rollouts: Mapping[str, pa.Table], confidence: float) -> list[dict[str, Any]]:
    """Rows of `schemas.REPLY_STATISTICS`. A statistic with nothing to count (no reply anywhere) has no row.

    mean_words: words of a reply, split at white space. question_share: replies that end in a question mark.
    questions_per_reply: question marks in a reply, wherever they stand; several in a row ("???", "?!") are one.
    replies_per_dialogue: how far dialogues go. Intervals take dialogues as clusters. What is wrong with replies is
    counted in `failures`.
    """
    rows = []
    for policy in rollouts:
        dialogues = list(replies_by_dialogue(rollouts[policy]).values())
        sizes = [len(replies) for replies in dialogues]
        estimates = {"replies_per_dialogue": clustered_mean(sizes, [1] * len(sizes), confidence)} if sizes else {}
        if any(sizes):
            lengths = [sum(len(reply.text.split()) for reply in replies) for replies in dialogues]
            estimates["mean_words"] = clustered_mean(lengths, sizes, confidence)
            asked = [sum(len(_QUESTION.findall(reply.text)) for reply in replies) for replies in dialogues]
            estimates["questions_per_reply"] = clustered_mean(asked, sizes, confidence)
            asking = [sum(map(_asks, replies)) for replies in dialogues]
            estimates["question_share"] = clustered_share(asking, sizes, confidence)
        rows += [
            {
                "policy": policy,
                "statistic": statistic,
                "n": estimate.n,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
            }
            for statistic, estimate in estimates.items()
        ]
    return rows


def _asks(reply: Reply) -> bool:
    return reply.text.rstrip().endswith("?")


def opening(text: str) -> tuple[str, ...]:
    """The first three words, in lower case, split at white space."""
    return tuple(text.lower().split()[:OPENING_WORDS])
