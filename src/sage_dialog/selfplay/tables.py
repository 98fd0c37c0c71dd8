"""Played dialogues as tables: CANDIDATES and TRAJECTORIES of `schemas`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain
from sage_dialog.schemas import CANDIDATES, TRAJECTORIES
from sage_dialog.selfplay.game_state import GameState


def candidates_table(dialogues: Iterable[GameState]) -> pa.Table:
    """Every candidate of every agent turn, in the order of the dialogues, turns and samples."""
    rows = [
        {
            "situation_id": dialogue.situation_id,
            "turn": turn,
            "candidate": index,
            "text": candidate.text,
            "utterance": candidate.utterance,
            **_intents(candidate.chain),
            "valid": candidate.valid,
            "invalid_reason": candidate.reason,
            "chosen": index == chosen,
        }
        for dialogue in dialogues
        for turn, (candidates, chosen) in dialogue.candidates.items()
        for index, candidate in enumerate(candidates)
    ]
    return pa.Table.from_pylist(rows, schema=CANDIDATES)


def trajectories_table(dialogues: Iterable[GameState]) -> pa.Table:
    """Every message of every dialogue. The situation itself, turn 0, has no state and no action."""
    rows = [
        {
            "situation_id": dialogue.situation_id,
            "turn": turn,
            "role": message.role,
            "text": message.text,
            "content": message.content,
            **_intents(message.chain),
            "outcome": str(dialogue.outcome),
        }
        for dialogue in dialogues
        for turn, message in enumerate(dialogue.messages)
    ]
    return pa.Table.from_pylist(rows, schema=TRAJECTORIES)


def _intents(chain: Chain | None) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for prefix, intent in (("u_", chain and chain.state), ("a_", chain and chain.action)):
        columns[f"{prefix}motivation"] = intent and intent.motivation
        columns[f"{prefix}emotion"] = intent and intent.emotion
        columns[f"{prefix}topics"] = list(intent.topics) if intent else None
    return columns


def messages_by_dialogue(trajectories: pa.Table) -> dict[str, list[Message]]:
    """The messages of each dialogue of a TRAJECTORIES table, by situation id, in the order of their turns.

    Their chains are not read back.
    """
    rows = trajectories.select(["situation_id", "turn", "role", "text", "content"]).to_pylist()
    dialogues: dict[str, list[Message]] = {}
    for row in sorted(rows, key=lambda row: row["turn"]):
        dialogues.setdefault(row["situation_id"], []).append(Message(row["role"], row["content"], row["text"]))
    return dialogues
