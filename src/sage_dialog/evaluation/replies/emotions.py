"""How an agent reads the user's emotion, against the situation's label: word for word, by meaning, in k guesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_dialog.evaluation.replies.emotion_labels import emotion_labels
from sage_dialog.evaluation.rollouts import replies_by_dialogue
from sage_dialog.evaluation.statistics import clustered_share, proportion_interval
from sage_dialog.sac import normalize_label

if TYPE_CHECKING:
    import pyarrow as pa

UNMAPPED, UNNAMED = "(unmapped)", "(none)"  # none of the 32 labels is written so
TOP_KS = (1, 3, 5)


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
    chance = 1 / len(set(_labels(situations).values()))
    rows = []
    for policy, read in read_emotions(rollouts, with_blocks, situations).items():
        reached = Counter(reading.exchange for reading in read)
        correct = Counter(reading.exchange for reading in read if reading.named == reading.label)
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


class Reading(NamedTuple):
    """One reply: the situation's label, the emotion that the state block names, and the label which that means."""

    situation: str
    exchange: int
    label: str
    named: str | None
    meant: str | None


Readings = Mapping[str, Sequence[Reading]]
"""By policy."""


def read_emotions(rollouts: Mapping[str, pa.Table], with_blocks: Sequence[str], situations: pa.Table) -> Readings:
    """Every reply's reading, dialogues by their ids. Arguments and errors are those of `emotion_accuracy`."""
    labels, known = _labels(situations), emotion_labels()
    return {policy: list(_of_policy(policy, rollouts[policy], labels, known.label)) for policy in with_blocks}


def mapped_emotions(readings: Readings, confidence: float) -> list[dict[str, Any]]:
    """What the free words mean by `emotion_labels`, against the label: rows of `schemas.MAPPED_EMOTIONS`.

    `coverage` is the share of the replies that name an emotion whose word the lists hold; null where none names one.
    `accuracy` is of all replies: one that names nothing, or a word outside the lists, is wrong. Intervals are Wilson's;
    a dialogue gives an exchange one reply.
    """
    version = emotion_labels().version
    rows = []
    for policy, read in readings.items():
        for exchange in sorted({reading.exchange for reading in read}):
            at = [reading for reading in read if reading.exchange == exchange]
            named = sum(reading.named is not None for reading in at)
            mapped = sum(reading.meant is not None for reading in at)
            correct = sum(reading.meant == reading.label for reading in at)
            covered = proportion_interval(mapped, named, confidence) if named else (None, None)
            low, high = proportion_interval(correct, len(at), confidence)
            rows.append(
                {
                    "policy": policy,
                    "exchange": exchange,
                    "mapping": version,
                    "n": len(at),
                    "named": named,
                    "mapped": mapped,
                    "coverage": mapped / named if named else None,
                    "coverage_low": covered[0],
                    "coverage_high": covered[1],
                    "correct": correct,
                    "accuracy": correct / len(at),
                    "low": low,
                    "high": high,
                }
            )
    return rows


def unmapped_emotions(readings: Readings) -> list[dict[str, Any]]:
    """The words that `emotion_labels` does not hold, as rows of `schemas.UNMAPPED_EMOTIONS`, frequent ones first."""
    rows = []
    for policy, read in readings.items():
        outside = Counter(reading.named for reading in read if reading.named and not reading.meant)
        for emotion, count in sorted(outside.items(), key=lambda item: (-item[1], item[0])):
            rows.append({"policy": policy, "emotion": emotion, "n": len(read), "count": count})
    return rows


def emotion_confusion(readings: Readings, confidence: float) -> list[dict[str, Any]]:
    """What is read where the label says what, at the first exchange: rows of `schemas.EMOTION_CONFUSION`.

    Only there, because the label describes the situation; what the user feels later may be something else. `predicted`
    is a label, `UNMAPPED` where the word is in no list, `UNNAMED` where there is none. Labels come in the order of the
    lists, those of like meaning together; intervals are Wilson's, one reply a situation.
    """
    order = (*emotion_labels().labels, UNMAPPED, UNNAMED)
    rows = []
    for policy, read in readings.items():
        cells = Counter((reading.label, _predicted(reading)) for reading in read if reading.exchange == 1)
        labelled = Counter(reading.label for reading in read if reading.exchange == 1)
        places = {name: place for place, name in enumerate(dict.fromkeys((*order, *sorted(labelled))))}
        for (label, predicted), count in sorted(cells.items(), key=lambda cell: [places[name] for name in cell[0]]):
            low, high = proportion_interval(count, labelled[label], confidence)
            rows.append(
                {
                    "policy": policy,
                    "label": label,
                    "predicted": predicted,
                    "n": labelled[label],
                    "count": count,
                    "share": count / labelled[label],
                    "low": low,
                    "high": high,
                }
            )
    return rows


def emotion_top_k(candidates: Mapping[str, pa.Table], situations: pa.Table, confidence: float) -> list[dict[str, Any]]:
    """Whether the label is among the k emotions a policy names most often, as rows of `schemas.EMOTION_TOP_K`.

    A policy writes one emotion a reply and no scores beside it, so its guesses are counted over samples: the candidates
    that the search drew for the first reply to each situation, all from the same prompt. Emotions are ranked by how
    many candidates name them, as the labels they mean; a word outside the lists holds a place of its own and is wrong,
    a candidate that names nothing holds none. Of emotions named equally often each is as likely to come first, so a
    tie at rank k counts as the share of orders that are right. The interval takes situations as drawn.

    These are situations of the search. The ones that an earlier iteration searched, which the policy was trained on,
    stand in rows of their own.

    Args:
        candidates: tables of `schemas.CANDIDATES` by the policy that they were drawn from, in the order of iterations.
        situations: the table of `schemas.SITUATIONS`.
        confidence: such as 0.95.

    Raises:
        ValueError: naming a searched situation that `situations` does not hold.
    """
    labels, known = _labels(situations), emotion_labels()
    rows = []
    before: set[str] = set()
    for policy, table in candidates.items():
        drawn: dict[str, list[str | None]] = {}
        for row in table.select(["situation_id", "turn", "u_emotion"]).to_pylist():
            if row["turn"] == 1:
                drawn.setdefault(row["situation_id"], []).append(row["u_emotion"])
        for searched_before in (False, True):
            asked = {situation: named for situation, named in drawn.items() if (situation in before) is searched_before}
            guesses = [
                (
                    _label_of(labels, situation, f"{policy} searched"),
                    Counter(known.label(emotion) or f"unmapped {emotion}" for emotion in emotions if emotion),
                )
                for situation, emotions in sorted(asked.items())
            ]
            for k in TOP_KS if guesses else ():
                share = clustered_share(
                    [_within(named, label, k) for label, named in guesses], [1] * len(guesses), confidence
                )
                rows.append(
                    {
                        "policy": policy,
                        "searched_before": searched_before,
                        "k": k,
                        "n": share.n,
                        "candidates": sum(map(len, asked.values())) / share.n,
                        "emotions": sum(len(named) for _, named in guesses) / share.n,
                        "accuracy": share.value,
                        "low": share.low,
                        "high": share.high,
                        "chance": min(1.0, k / len(set(labels.values()))),
                    }
                )
        before |= set(drawn)
    return rows


def _within(guesses: Counter[str], label: str, k: int) -> float:
    """The share of orders, of those that go by count, in which the label is among the first k."""
    if not guesses[label]:
        return 0.0
    before = sum(count > guesses[label] for count in guesses.values())
    tied = sum(count == guesses[label] for count in guesses.values())
    return min(1.0, max(0.0, (k - before) / tied))


def _of_policy(
    policy: str, rollouts: pa.Table, labels: Mapping[str, str], meaning: Callable[[str | None], str | None]
) -> Iterator[Reading]:
    for situation, replies in replies_by_dialogue(rollouts).items():
        label = _label_of(labels, situation, f"{policy} played")
        for reply in replies:
            named = reply.chain.state.emotion if reply.chain else None
            yield Reading(situation, reply.exchange, label, named, meaning(named))


def _predicted(reading: Reading) -> str:
    return reading.meant or (UNMAPPED if reading.named else UNNAMED)


def _labels(situations: pa.Table) -> dict[str, str]:
    """The label of each situation, as blocks write labels."""
    ids, emotions = situations["situation_id"].to_pylist(), situations["emotion"].to_pylist()
    return {situation: normalize_label(emotion) or emotion for situation, emotion in zip(ids, emotions, strict=True)}


def _label_of(labels: Mapping[str, str], situation: str, who: str) -> str:
    if situation not in labels:
        raise ValueError(f"{who} situation {situation!r}, which the table `situations` does not hold")
    return labels[situation]
