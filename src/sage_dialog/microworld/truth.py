"""Scores of replies by the world's own truth: a judge that is independent of every role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.microworld.world import World
from sage_dialog.schemas import EXTERNAL_SCORES, JUDGE_VOTES

SCORER = "world truth"

# Of each reply, 1 or 0:
SUITABLE = "suitable"  # its wording has a motivation that suits what the user feels
ON_TOPIC = "on topic"  # it mentions the situation's topic and no other
FRESH = "fresh"  # no earlier reply of the dialogue has the same words
ATTUNED = "attuned"  # suitable and on topic; the votes count these
# Of replies with blocks:
EMOTION_READ = "emotion read"  # u_emotion is what the user feels
PLAN_SUITS_OWN_READING = "plan suits own reading"  # a_motivation suits the policy's own u_emotion
SAID_AS_PLANNED = "said as planned"  # the wording has the a_motivation
# Of the simulated user's message before the reply, from the second exchange on:
USER_KEEPS_FEELING = "user keeps the feeling"  # its cues show the situation's emotion, and no other


def truth_scores(world: World, world_truth: DataFrame, rollouts: DataFrame) -> DataFrame:
    """Return every statistic of every reply (schemas.EXTERNAL_SCORES); exchange 1 answers the situation itself.

    Args:
        world: the world of the situations.
        world_truth: situation_id, emotion, topic, suitable.
        rollouts: a table of schemas.ROLLOUTS.
    """
    truth = {row["situation_id"]: row for row in to_rows(world_truth)}
    rows = [
        {
            "scorer": SCORER,
            "policy": policy,
            "situation_id": situation,
            "statistic": statistic,
            "exchange": exchange,
            "value": float(value),
        }
        for policy, played in rollouts.groupby("policy", sort=False)
        for situation, exchange, message, reply, earlier in _replies(played)
        for statistic, value in _reply_scores(world, truth[situation], message, reply, earlier).items()
    ]
    return from_rows(rows, EXTERNAL_SCORES)


def truth_votes(scores: DataFrame, pairs: Sequence[tuple[str, str]]) -> DataFrame:
    """Return votes for the policy with more attuned replies on each situation (schemas.JUDGE_VOTES).

    Both orders vote alike. A dialogue that ended early has fewer replies to score with, down to none.
    """
    attuned = scores[scores["statistic"] == ATTUNED].groupby(["situation_id", "policy"])["value"].sum().unstack()
    rows = []
    for a, b in pairs:
        compared = attuned.reindex(columns=[a, b]).dropna(how="all").fillna(0.0)
        for situation, left, right in compared.itertuples(name=None):
            vote = "tie" if left == right else "a" if left > right else "b"
            common = {"situation_id": situation, "policy_a": a, "policy_b": b, "judge": SCORER, "vote": vote}
            counts = f"attuned replies: {a} {left:.0f}, {b} {right:.0f}"
            rows += [common | {"order": order, "raw_response": counts} for order in ("ab", "ba")]
    return from_rows(rows, JUDGE_VOTES)


def _replies(rollouts: DataFrame) -> Iterator[tuple[str, int, str, dict[str, Any], list[str]]]:
    """Yield situation, exchange, the user's last message, the reply's row, and the texts of the replies before it."""
    earlier: dict[str, list[str]] = {}
    message = ""
    for row in to_rows(rollouts.sort_values(["situation_id", "turn"])):
        if row["role"] == "user":
            message = row["text"]
            continue
        texts = earlier.setdefault(row["situation_id"], [])
        yield row["situation_id"], len(texts) + 1, message, row, list(texts)
        texts.append(row["text"])


def _reply_scores(
    world: World, truth: dict[str, Any], message: str, reply: dict[str, Any], earlier: list[str]
) -> dict[str, bool]:
    # A simulated user may drift: a reply must suit the feeling in the cues of the last message, or else the
    # situation's, where they have none or several.
    cued = world.emotion_in(message)
    felt = cued or truth["emotion"]
    motivation = world.motivation_of(reply["text"])
    suitable = motivation in world.suitable(felt)
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
        found[SAID_AS_PLANNED] = reply["a_motivation"] == motivation
    if earlier:
        found[USER_KEEPS_FEELING] = cued == truth["emotion"]
    return found
