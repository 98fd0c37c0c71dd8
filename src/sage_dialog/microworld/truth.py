"""What the world itself knows of a policy's replies: its third judge, independent of every role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.microworld.world import World

SCORER = "world truth"

# Of each reply, 1 or 0:
SUITABLE = "suitable"  # its wording carries a motivation that suits what the user feels
ON_TOPIC = "on topic"  # it speaks of the situation's topic and of no other
FRESH = "fresh"  # no earlier reply of the dialogue carried the same words
ATTUNED = "attuned"  # suitable and on topic: what the votes count
# Of replies with blocks:
EMOTION_READ = "emotion read"  # u_emotion is what the user feels
PLAN_SUITS_OWN_READING = "plan suits own reading"  # a_motivation suits the u_emotion the policy itself wrote
SAID_AS_PLANNED = "said as planned"  # the wording carries the a_motivation
# Of the simulated user's words before the reply, from the second exchange on:
USER_KEEPS_FEELING = "user keeps the feeling"  # their cues show the situation's emotion, and no other


def scores(world: World, world_truth: pa.Table, rollouts: Mapping[str, pa.Table]) -> pa.Table:
    """Every statistic of every reply (schemas.EXTERNAL_SCORES); exchange 1 answers the situation itself.

    Args:
        world_truth: situation_id, emotion, topic, suitable.
        rollouts: a table of schemas.TRAJECTORIES by policy.
    """
    truth = {row["situation_id"]: row for row in world_truth.to_pylist()}
    rows = [
        {
            "scorer": SCORER,
            "policy": policy,
            "situation_id": situation,
            "statistic": statistic,
            "exchange": exchange,
            "value": float(value),
        }
        for policy, table in rollouts.items()
        for situation, exchange, heard, reply, earlier in _replies(table)
        for statistic, value in _reply_scores(world, truth[situation], heard, reply, earlier).items()
    ]
    return pa.Table.from_pylist(rows, schema=schemas.EXTERNAL_SCORES)


def votes(truth_scores: pa.Table, pairs: Sequence[tuple[str, str]]) -> pa.Table:
    """On each situation, the policy with more attuned replies wins (schemas.JUDGE_VOTES, both orders alike).

    A dialogue that ended early has fewer replies to score with, down to none.
    """
    attuned: dict[str, dict[str, float]] = {}
    for row in truth_scores.to_pylist():
        if row["statistic"] == ATTUNED:
            of_policy = attuned.setdefault(row["policy"], {})
            of_policy[row["situation_id"]] = of_policy.get(row["situation_id"], 0.0) + row["value"]
    rows = []
    for a, b in pairs:
        of_a, of_b = attuned.get(a, {}), attuned.get(b, {})
        for situation in sorted(of_a.keys() | of_b.keys()):
            left, right = of_a.get(situation, 0.0), of_b.get(situation, 0.0)
            vote = "tie" if left == right else "a" if left > right else "b"
            common = {"situation_id": situation, "policy_a": a, "policy_b": b, "judge": SCORER, "vote": vote}
            said = f"attuned replies: {a} {left:.0f}, {b} {right:.0f}"
            rows += [common | {"order": order, "raw_response": said} for order in ("ab", "ba")]
    return pa.Table.from_pylist(rows, schema=schemas.JUDGE_VOTES)


def _replies(table: pa.Table) -> Iterator[tuple[str, int, str, dict[str, Any], list[str]]]:
    """Situation, exchange, what the user said last, the reply's row, and the texts of the replies before it."""
    earlier: dict[str, list[str]] = {}
    heard = ""
    for row in sorted(table.to_pylist(), key=lambda row: (row["situation_id"], row["turn"])):
        if row["role"] == "user":
            heard = row["text"]
            continue
        said = earlier.setdefault(row["situation_id"], [])
        yield row["situation_id"], len(said) + 1, heard, row, list(said)
        said.append(row["text"])


def _reply_scores(
    world: World, truth: dict[str, Any], heard: str, reply: dict[str, Any], earlier: list[str]
) -> dict[str, bool]:
    # A user model may lose the thread: where its cues show one feeling, that is what a reply must suit;
    # where they show none or several, the situation's feeling stands.
    shown = world.emotion_in(heard)
    felt = shown or truth["emotion"]
    carried = world.motivation_of(reply["text"])
    suitable = carried in world.suitable(felt)
    on_topic = world.topics_in(reply["text"]) == {truth["topic"]}
    found = {
        SUITABLE: suitable,
        ON_TOPIC: on_topic,
        FRESH: reply["text"] not in earlier,
        ATTUNED: suitable and on_topic,
    }
    if reply["a_motivation"] is not None:
        read = reply["u_emotion"]
        found[EMOTION_READ] = read == felt
        found[PLAN_SUITS_OWN_READING] = read in world.emotions and reply["a_motivation"] in world.suitable(read)
        found[SAID_AS_PLANNED] = reply["a_motivation"] == carried
    if earlier:
        found[USER_KEEPS_FEELING] = shown == truth["emotion"]
    return found
