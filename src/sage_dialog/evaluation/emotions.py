"""How often an agent reads the user's emotion as the situation's label has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.evaluation.rollouts import replies_by_dialogue
from sage_dialog.evaluation.statistics import proportion_interval
from sage_dialog.sac import normalised_label

if TYPE_CHECKING:
    import pyarrow as pa


def emotion_accuracy(
    rollouts: Mapping[str, pa.Table], with_blocks: Sequence[str], situations: pa.Table, confidence: float
) -> list[dict[str, Any]]:
    """Predicted `u_emotion` against the situation's label, at every exchange, as rows of `schemas.EMOTION_ACCURACY`.

    `n` counts the dialogues that reached the exchange; a reply whose blocks do not parse is wrong. `chance` is
    one over the number of labels in `situations`: what guessing without looking gives. (The share of the most
    common label is `majority_share`.) The interval is Wilson's; a dialogue gives an exchange one reply.

    Args:
        rollouts: tables of `schemas.TRAJECTORIES` by policy.
        with_blocks: the policies that write state and action; the others predict nothing and get no row.
        situations: the table of `schemas.SITUATIONS`.
        confidence: such as 0.95.

    Raises:
        ValueError: naming a played situation that `situations` does not hold.
    """
    labels = dict(zip(situations["situation_id"].to_pylist(), situations["emotion"].to_pylist(), strict=True))
    chance = 1 / len(set(labels.values()))
    rows = []
    for policy in with_blocks:
        reached: Counter[int] = Counter()
        correct: Counter[int] = Counter()
        for situation, replies in replies_by_dialogue(rollouts[policy]).items():
            if situation not in labels:
                raise ValueError(f"{policy} played situation {situation!r}, which the table `situations` does not hold")
            label = normalised_label(labels[situation])
            for reply in replies:
                reached[reply.exchange] += 1
                correct[reply.exchange] += reply.chain is not None and reply.chain.state.emotion == label
        for exchange in sorted(reached):
            low, high = proportion_interval(correct[exchange], reached[exchange], confidence)
            rows.append(
                {
                    "policy": policy,
                    "exchange": exchange,
                    "n": reached[exchange],
                    "correct": correct[exchange],
                    "accuracy": correct[exchange] / reached[exchange],
                    "low": low,
                    "high": high,
                    "chance": chance,
                }
            )
    return rows


def majority_share(situations: pa.Table, split: str) -> float:
    """Share of the most common emotion among a split's situations: what always guessing that one gives.

    Raises:
        ValueError: if the split holds no situation.
    """
    emotions = [
        emotion
        for emotion, kept in zip(situations["emotion"].to_pylist(), situations["split"].to_pylist(), strict=True)
        if kept == split
    ]
    if not emotions:
        raise ValueError(f"the table `situations` holds no {split} situation")
    return Counter(emotions).most_common(1)[0][1] / len(emotions)
