"""Played dialogues as tables: CANDIDATES and TRAJECTORIES of `schemas`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain
from sage_dialog.schemas import CANDIDATES, TRAJECTORIES
from sage_dialog.selfplay.game_state import GameState


def candidates_table(dialogues: Iterable[GameState]) -> DataFrame:
    """Return every candidate of every agent turn, ordered by dialogue, turn and sample."""
    rows = [
        {
            "situation_id": dialogue.situation_id,
            "turn": turn,
            "candidate": index,
            "text": candidate.text,
            "utterance": candidate.utterance,
            **_intents(candidate.chain),
            "valid": candidate.valid,
            "invalid_reason": candidate.invalid_reason,
            "chosen": index == chosen,
        }
        for dialogue in dialogues
        for turn, (candidates, chosen) in dialogue.candidates.items()
        for index, candidate in enumerate(candidates)
    ]
    return from_rows(rows, CANDIDATES)


def trajectories_table(dialogues: Iterable[GameState]) -> DataFrame:
    """Return every message of every dialogue. The situation, turn 0, has no state and no action."""
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
    return from_rows(rows, TRAJECTORIES)


def _intents(chain: Chain | None) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for prefix, intent in (("u_", chain and chain.state), ("a_", chain and chain.action)):
        columns[f"{prefix}motivation"] = intent and intent.motivation
        columns[f"{prefix}emotion"] = intent and intent.emotion
        columns[f"{prefix}topics"] = list(intent.topics) if intent else None
    return columns


def messages_by_dialogue(trajectories: DataFrame) -> dict[str, list[Message]]:
    """Return the messages of each dialogue of a TRAJECTORIES table by situation id, without chains."""
    dialogues: dict[str, list[Message]] = {}
    ordered = trajectories.sort_values("turn", kind="stable")
    columns = (ordered[name] for name in ("situation_id", "role", "content", "text"))
    for situation_id, role, content, text in zip(*columns, strict=True):
        dialogues.setdefault(situation_id, []).append(Message(role, content, text))
    return dialogues
