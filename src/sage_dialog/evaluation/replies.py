"""What the agent's replies look like: their actions, lengths, questions, repetitions (paper §4, Figure 3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.evaluation.rollouts import Reply, replies_by_dialogue
from sage_dialog.evaluation.statistics import clustered_mean, clustered_share

if TYPE_CHECKING:
    import pyarrow as pa

OPENING_WORDS = 3
NO_LABEL = "null"

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
        dialogues = [
            [reply for reply in replies if reply.chain] for replies in replies_by_dialogue(rollouts[policy]).values()
        ]
        sizes = [len(replies) for replies in dialogues]
        for field, label in ACTION_FIELDS.items():
            found = [Counter(label(reply) or NO_LABEL for reply in replies) for replies in dialogues]
            totals = sum(found, Counter())
            for value, count in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
                share = clustered_share([counter[value] for counter in found], sizes, confidence)
                rows.append(
                    {
                        "policy": policy,
                        "field": field,
                        "value": value,
                        "n": share.n,
                        "count": count,
                        "share": share.value,
                        "low": share.low,
                        "high": share.high,
                    }
                )
    return rows


def reply_statistics(
    rollouts: Mapping[str, pa.Table], with_blocks: Sequence[str], confidence: float
) -> list[dict[str, Any]]:
    """Rows of `schemas.REPLY_STATISTICS`. A statistic with nothing to count (no second reply anywhere) has no row.

    mean_words: words of a reply, split at white space. question_share: replies that end in a question mark.
    valid_blocks: replies whose blocks parse; only of policies that write them. repeated_openings: replies after
    the first whose first three words an earlier reply of the same dialogue begins with. repeated_replies: the
    same of whole replies. replies_per_dialogue: how far dialogues go. Intervals take dialogues as clusters.
    """
    rows = []
    for policy in rollouts:
        dialogues = list(replies_by_dialogue(rollouts[policy]).values())
        sizes = [len(replies) for replies in dialogues]
        later = [max(0, size - 1) for size in sizes]
        shares = {"question_share": ([sum(map(_asks, replies)) for replies in dialogues], sizes)}
        if policy in with_blocks:
            parsed = [sum(reply.chain is not None for reply in replies) for replies in dialogues]
            shares["valid_blocks"] = (parsed, sizes)
        shares["repeated_openings"] = ([_repeated(list(map(_opening, replies))) for replies in dialogues], later)
        shares["repeated_replies"] = ([_repeated([reply.text for reply in replies]) for replies in dialogues], later)
        estimates = {"replies_per_dialogue": clustered_mean(sizes, [1] * len(sizes), confidence)}
        if any(sizes):
            lengths = [sum(len(reply.text.split()) for reply in replies) for replies in dialogues]
            estimates["mean_words"] = clustered_mean(lengths, sizes, confidence)
        for statistic, (successes, among) in shares.items():
            if any(among):
                estimates[statistic] = clustered_share(successes, among, confidence)
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


def _opening(reply: Reply) -> tuple[str, ...]:
    return tuple(reply.text.lower().split()[:OPENING_WORDS])


def _repeated(values: Sequence[object]) -> int:
    """How many values an earlier one equals."""
    return len(values) - len(set(values))
