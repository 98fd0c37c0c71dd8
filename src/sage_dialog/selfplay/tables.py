"""Played dialogues as tables: CANDIDATES and TRAJECTORIES of `schemas`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain
from sage_dialog.schemas import CANDIDATES, TRAJECTORIES
from sage_dialog.selfplay.game import GameState


def candidates_table(dialogues: Iterable[GameState]) -> DataFrame:
    """Return every candidate of every agent turn, ordered by dialogue, turn and sample."""
    rows = [
        vars(candidate)
        | _intents(candidate.chain)
        | {"situation_id": dialogue.situation_id, "turn": turn, "candidate": index}
        | {"valid": candidate.valid, "chosen": index == chosen}
        for dialogue in dialogues
        for turn, (candidates, chosen) in dialogue.candidates.items()
        for index, candidate in enumerate(candidates)
    ]
    return from_rows(rows, CANDIDATES)


def trajectories_table(dialogues: Iterable[GameState]) -> DataFrame:
    """Return every message of every dialogue. The situation, turn 0, has no state and no action."""
    rows = [
        vars(message)
        | _intents(message.chain)
        | {"situation_id": dialogue.situation_id, "turn": turn, "outcome": str(dialogue.outcome)}
        for dialogue in dialogues
        for turn, message in enumerate(dialogue.messages)
    ]
    return from_rows(rows, TRAJECTORIES)


def _intents(chain: Chain | None) -> dict[str, Any]:
    if chain is None:
        return {}
    intents = {"u": chain.state, "a": chain.action}
    return {f"{prefix}_{name}": value for prefix, intent in intents.items() for name, value in vars(intent).items()}


def messages_by_dialogue(trajectories: DataFrame) -> dict[str, list[Message]]:
    """Return the messages of each dialogue of a TRAJECTORIES table by situation id, without chains."""
    dialogues: dict[str, list[Message]] = {}
    ordered = trajectories.sort_values("turn", kind="stable")[["situation_id", "role", "content", "text"]]
    for situation_id, *message in ordered.itertuples(index=False, name=None):
        dialogues.setdefault(situation_id, []).append(Message(*message))
    return dialogues
