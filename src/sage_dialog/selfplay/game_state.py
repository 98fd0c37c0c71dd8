"""The state of a dialogue game: its speakers, the dialogues in progress, and how they end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from sage_dialog.dialogue import Message
from sage_dialog.inference.candidates import Candidate


class Outcome(StrEnum):
    """Why a dialogue ended."""

    TURN_LIMIT = "turn limit"
    FAREWELL = "farewell"
    CONTEXT_FULL = "context full"
    NO_VALID_CANDIDATE = "no valid candidate"
    NO_GOOD_CANDIDATE = "no good candidate"
    UNREADABLE_CHOICE = "unreadable choice"
    EMPTY_AGENT_REPLY = "empty agent reply"
    EMPTY_USER_REPLY = "empty user reply"
    CUT_USER_REPLY = "cut user reply"
    NO_VALID_USER_BLOCKS = "no valid user blocks"


@dataclass(frozen=True)
class Speaker:
    """A policy in a role of the game.

    Attributes:
        policy: its name.
        blocks: whether it writes state and action blocks.
        system_prompt: its system message.
    """

    policy: str
    blocks: bool
    system_prompt: str | None


@dataclass
class GameState:
    """A dialogue in progress.

    Attributes:
        situation_id: of the opening.
        messages: the dialogue so far. Turn 0 is the situation, in the user's voice.
        outcome: None until the dialogue ends.
        candidates: for each agent turn of a search, all candidates and the index of the chosen one.
    """

    situation_id: str
    messages: list[Message]
    outcome: Outcome | None = None
    candidates: dict[int, tuple[list[Candidate], int | None]] = field(default_factory=dict)

    @classmethod
    def from_situation(cls, situation_id: str, situation: str) -> GameState:
        return cls(situation_id, [Message("user", situation)])

    @property
    def turn(self) -> int:
        """The number of the next message."""
        return len(self.messages)

    def visible_messages(self) -> tuple[Message, ...]:
        """Return the messages without blocks."""
        return tuple(Message(message.role, message.text) for message in self.messages)
