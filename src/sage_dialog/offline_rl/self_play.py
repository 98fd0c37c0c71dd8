"""Rewards for a policy's own dialogues: the selector compares each reply with others that the policy draws."""

from __future__ import annotations

import logging
from collections import defaultdict
from statistics import fmean
from typing import Any

from sage_dialog.core.seeds import generator, sample_ids
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.offline_rl.dialogues import TRAIN, VALID
from sage_dialog.roles.protocols import Choice, NoChoice, Selector
from sage_dialog.sac import Chain, parse
from sage_dialog.schemas import GOAL_DIALOGUES, REPLY_COMPARISONS
from sage_dialog.selfplay.search import situation_of
from sage_dialog.selfplay.tables import messages_by_dialogue
from sage_dialog.training_data.sources import up_to_last_reply

logger = logging.getLogger(__name__)

TASK = "self_play"
"""The task of these dialogues in `schemas.GOAL_DIALOGUES`."""

_POINTS = {"reply": 1.0, "tie": 0.5, "candidate": 0.0}


def compare_replies(selector: Selector, rollouts: DataFrame, candidates: DataFrame, seed: int) -> DataFrame:
    """Return how each reply compares with the others that were drawn beside it (schemas.REPLY_COMPARISONS).

    The selector reads the dialogue up to the reply, and picks one of two, in an order drawn by seed. Replies with the
    same utterance tie, as do those of which neither is good. Candidates that are not valid are left out.

    Args:
        rollouts, candidates: schemas.TRAJECTORIES and schemas.CANDIDATES of `selfplay.search.sample_dialogues`.
    """
    dialogues = messages_by_dialogue(rollouts)
    columns = ["situation_id", "turn", "candidate", "utterance", "chosen"]
    offered = candidates.loc[candidates["valid"], columns].sort_values(columns[:3])
    said = offered[offered["chosen"]].set_index(["situation_id", "turn"])["utterance"].str.strip().to_dict()
    rows: list[dict[str, Any]] = []
    choices: list[tuple[int, Choice, bool]] = []  # row, what is asked, and whether the reply comes first
    for name, turn, number, utterance, chosen in offered.itertuples(index=False, name=None):
        if chosen or (name, turn) not in said:
            continue
        rows.append({"dialogue_id": name, "turn": turn, "candidate": number, "selector": selector.name, "vote": "tie"})
        reply, other = said[name, turn], utterance.strip()
        if reply != other:
            first = bool(generator(seed, "order of replies", name, turn, number).integers(2))
            history = tuple(Message(message.role, message.text) for message in dialogues[name][:turn])
            item = f"reply/{name}/{turn}/{number}"
            choices.append((len(rows) - 1, Choice(item, history, (reply, other) if first else (other, reply)), first))
    selector.expect(len(choices))
    selected = selector.select([choice for _, choice, _ in choices])
    for (row, _, first), selection in zip(choices, selected, strict=True):
        rows[row]["vote"] = _vote(selection, first)
    return from_rows(rows, REPLY_COMPARISONS)


def rewarded_dialogues(
    rollouts: DataFrame,
    comparisons: DataFrame,
    system_prompt: str | None,
    held_out: float,
    max_dropped_share: float,
    seed: int,
) -> DataFrame:
    """Return the dialogues as the agent sees them, up to its last message (schemas.GOAL_DIALOGUES).

    The reward of a reply is the share of its comparisons that it wins; a tie counts half, and a reply without a
    readable comparison has 0.5. The reward of a dialogue is their mean; above 0.5 it is a success. A dialogue without a
    reply, without any readable comparison, or with blocks that do not parse is dropped.

    Args:
        comparisons: schemas.REPLY_COMPARISONS.
        held_out: share of the situations that nothing is trained on.

    Raises:
        InputDataError: if more than `max_dropped_share` of the dialogues are dropped, or all.
    """
    points: dict[tuple[str, int], list[float]] = defaultdict(list)
    readable = comparisons.loc[comparisons["vote"] != "unreadable", ["dialogue_id", "turn", "vote"]]
    for name, turn, vote in readable.itertuples(index=False, name=None):
        points[name, turn].append(_POINTS[vote])
    dialogues = messages_by_dialogue(rollouts)
    situations = sorted({situation_of(name) for name in dialogues})
    valid = set(sample_ids(situations, round(held_out * len(situations)), seed, "held-out situations"))
    rows, dropped = [], 0
    for name, dialogue in dialogues.items():
        messages = up_to_last_reply(dialogue)
        turns = [turn for turn, message in enumerate(messages) if message.role == "assistant"]
        parsed = all(isinstance(parse(messages[turn].content), Chain) for turn in turns)
        if not parsed or not any((name, turn) in points for turn in turns):
            dropped += 1
            continue
        rewards = [fmean(points.get((name, turn), [0.5])) for turn in turns]
        rows.append(
            {
                "dialogue_id": name,
                "task": TASK,
                "split": VALID if situation_of(name) in valid else TRAIN,
                "messages": list(agent_view(messages, system_prompt)),
                "replies": len(turns),
                "reward": fmean(rewards),
                "success": fmean(rewards) > 0.5,
                "reply_rewards": rewards,
            }
        )
    if dropped:
        faults = "no readable comparison, no reply, or blocks that do not parse"
        found = f"{dropped} of {len(dialogues)} dialogues are dropped: {faults}"
        if not rows or dropped > max_dropped_share * len(dialogues):
            raise InputDataError(
                f"{found}. At least one must remain, and at most rl_play.max_dropped_share = {max_dropped_share:g} of "
                "them may be dropped. See the column `vote` of rl_comparisons and the column `content` of rl_rollouts; "
                "rl_play.agent.hold_form holds the form of the blocks"
            )
        logger.warning("%s", found)
    return from_rows(rows, GOAL_DIALOGUES)


def _vote(selection: int | NoChoice, reply_first: bool) -> str:
    if selection is NoChoice.UNREADABLE:
        return "unreadable"
    if selection is NoChoice.NONE_GOOD:
        return "tie"
    return "reply" if (selection == 0) == reply_first else "candidate"
