"""Returns of a policy's own dialogues: a judge compares those of the same situation."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.offline_rl.dialogues import TRAIN, VALID
from sage_dialog.roles.protocols import Comparison, Judge
from sage_dialog.sac import Chain, parse
from sage_dialog.schemas import GOAL_DIALOGUES, VERDICTS
from sage_dialog.selfplay.search import situation_of
from sage_dialog.selfplay.tables import messages_by_dialogue
from sage_dialog.training_data.sources import up_to_last_reply

logger = logging.getLogger(__name__)

TASK = "self_play"
"""The task of these dialogues in `schemas.GOAL_DIALOGUES`."""

_VOTES = {"first": "a", "second": "b", "tie": "tie", "unreadable": "unreadable"}
_POINTS = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}


def compare_dialogues(judges: Sequence[Judge], rollouts: DataFrame) -> DataFrame:
    """Return the verdict of every judge on every two dialogues of a situation (schemas.VERDICTS).

    Each pair is judged in one order. A dialogue comes first in about half of its pairs, so that a preference for the
    first one cancels.

    Args:
        rollouts: schemas.TRAJECTORIES of `selfplay.search.sample_dialogues`.
    """
    dialogues = messages_by_dialogue(rollouts)
    by_situation: dict[str, list[str]] = defaultdict(list)
    for name in dialogues:
        by_situation[situation_of(name)].append(name)
    pairs = [
        (situation, *((one, other) if (place + later) % 2 else (other, one)))
        for situation, names in by_situation.items()
        for (place, one), (later, other) in combinations(enumerate(names), 2)
    ]
    read = {name: tuple(Message(each.role, each.text) for each in dialogue) for name, dialogue in dialogues.items()}
    comparisons = [Comparison(read[a], read[b]) for _, a, b in pairs]
    rows = [
        {
            "situation_id": situation,
            "dialogue_a": a,
            "dialogue_b": b,
            "judge": judge.name,
            "vote": _VOTES[verdict.vote],
            "raw_response": verdict.raw_response,
        }
        for judge in judges
        for (situation, a, b), verdict in zip(pairs, judge.judge(comparisons), strict=True)
    ]
    return from_rows(rows, VERDICTS)


def judged_dialogues(
    rollouts: DataFrame, verdicts: DataFrame, system_prompt: str | None, held_out: float, seed: int
) -> DataFrame:
    """Return the dialogues as the agent sees them, up to its last message (schemas.GOAL_DIALOGUES).

    The reward of a dialogue is its share of wins among its comparisons; a tie counts half, an unreadable verdict not
    at all. A dialogue is a success if it wins more than it loses. A dialogue without a readable verdict, without a
    reply, or with blocks that do not parse is left out.

    Args:
        verdicts: schemas.VERDICTS.
        held_out: share of the situations that nothing is trained on.

    Raises:
        ValueError: if no dialogue is left.
    """
    points: dict[str, list[float]] = defaultdict(list)
    for row in to_rows(verdicts[verdicts["vote"] != "unreadable"]):
        for side, point in zip("ab", _POINTS[row["vote"]], strict=True):
            points[row[f"dialogue_{side}"]].append(point)
    dialogues = messages_by_dialogue(rollouts)
    situations = sorted({situation_of(name) for name in dialogues})
    valid = set(sample_ids(situations, round(held_out * len(situations)), seed, "held-out situations"))
    rows, left_out = [], 0
    for name, dialogue in dialogues.items():
        messages = up_to_last_reply(dialogue)
        replies = [message for message in messages if message.role == "assistant"]
        if not points[name] or not replies or any(not isinstance(parse(each.content), Chain) for each in replies):
            left_out += 1
            continue
        reward = sum(points[name]) / len(points[name])
        rows.append(
            {
                "dialogue_id": name,
                "task": TASK,
                "split": VALID if situation_of(name) in valid else TRAIN,
                "messages": list(agent_view(messages, system_prompt)),
                "replies": len(replies),
                "reward": reward,
                "success": reward > 0.5,
            }
        )
    if left_out:
        logger.warning(
            "%d of %d dialogues have no verdict, no reply, or blocks that do not parse, and are left out",
            *(left_out, len(dialogues)),
        )
    if not rows:
        raise ValueError(
            "no dialogue is left to learn from: each has no readable verdict, no reply, or blocks that do not parse; "
            "see the column `vote` of rl_verdicts and the column `content` of rl_rollouts"
        )
    return from_rows(rows, GOAL_DIALOGUES)
