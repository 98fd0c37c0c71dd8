"""Dialogues with returns: what every policy and the critic learn from."""

from __future__ import annotations

import logging

from sage_dialog.config import Imagination
from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.imagination.tables import read_values
from sage_dialog.imagination.wording import Wording, with_blocks
from sage_dialog.schemas import GOAL_DIALOGUES, SFT_CONVERSATIONS

logger = logging.getLogger(__name__)

TRAIN, VALID = "train", "valid"


def goal_dialogues(
    personas: DataFrame,
    critiques: DataFrame,
    rewards: DataFrame,
    imagination: Imagination,
    blocks: bool,
    held_out: float,
    seed: int,
) -> DataFrame:
    """Return the imagined dialogues as the agent sees them, up to its last message (schemas.GOAL_DIALOGUES).

    No message names the reward, the outcome, or what is hidden and was not said.

    Args:
        blocks: write state and action blocks; a dialogue with a message that is none of the task's acts is left out.
        held_out: share of each task's dialogues that nothing is trained on.

    Raises:
        ValueError: if no dialogue is left.
    """
    shared = {row["persona_id"]: read_values(row["shared"]) for row in to_rows(personas)}
    scored = {row["dialogue_id"]: row for row in to_rows(rewards)}
    rows, left_out = [], 0
    for name, task in imagination.tasks.items():
        wording = Wording(task)
        kept = [row for row in to_rows(critiques[critiques["task"] == name]) if row["dialogue_id"] in scored]
        valid = set(sample_ids([row["dialogue_id"] for row in kept], round(held_out * len(kept)), seed, "held out"))
        for row in kept:
            messages = [Message(**message) for message in row["messages"]]
            while messages and messages[-1].role == "user":
                messages.pop()
            if blocks:
                messages = list(with_blocks(task, wording, messages, shared[row["dialogue_id"]]))
                if any(message.role == "assistant" and message.chain is None for message in messages):
                    left_out += 1
                    continue
            found = scored[row["dialogue_id"]]
            rows.append(
                {
                    "dialogue_id": row["dialogue_id"],
                    "task": name,
                    "split": VALID if row["dialogue_id"] in valid else TRAIN,
                    "messages": list(agent_view(messages, task.agent.system_prompt)),
                    "replies": found["replies"],
                    "reward": found["reward"],
                    "success": found["success"],
                }
            )
    if left_out:
        logger.warning("%d dialogues have a message that is none of their task's acts, and are left out", left_out)
    if not rows:
        raise ValueError(
            "no imagined dialogue is left to learn from: blocks are written for the acts of a task, by its wordings. "
            "Set offline_rl.blocks to false for dialogues of a language model"
        )
    return from_rows(rows, GOAL_DIALOGUES)


def training_conversations(dialogues: DataFrame, best_share: float = 1.0) -> DataFrame:
    """Return the training dialogues as conversations (schemas.SFT_CONVERSATIONS).

    Args:
        best_share: share of each task's dialogues to keep, by reward; of equal rewards the shorter dialogues first.
    """
    train = dialogues[dialogues["split"] == TRAIN]
    ranked = train.sort_values(["reward", "replies", "dialogue_id"], ascending=[False, True, True])
    kept = {
        row["dialogue_id"]
        for _, of_task in ranked.groupby("task")
        for row in to_rows(of_task.head(max(1, round(best_share * len(of_task)))))
    }
    rows = [
        {"conversation_id": row["dialogue_id"], "source": row["task"], "messages": row["messages"]}
        for row in to_rows(train)
        if row["dialogue_id"] in kept
    ]
    return from_rows(rows, SFT_CONVERSATIONS)
