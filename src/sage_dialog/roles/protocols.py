"""What an annotator, a selector and a judge must do.

Each takes many items and answers in their order, so that a version behind a server can keep many calls
in flight. Roles see utterances without blocks, never a policy's name or its training data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from sage_dialog.dialogue import Message
from sage_dialog.sac import Intent


@dataclass(frozen=True)
class LabelledUtterance:
    """An annotator's reading of one utterance; `text` is its more readable wording.

    `kept_original`: its wording said something else, so `text` is what was written.
    """

    intent: Intent
    text: str
    kept_original: bool = False


@dataclass(frozen=True)
class RejectedDialogue:
    """Why a dialogue could not be annotated, and what the annotator said."""

    reason: str
    raw_response: str | None = None


@dataclass(frozen=True)
class Choice:
    """One agent turn to decide: what was said so far and the candidates' utterances, all different and valid.

    `item` names the turn; whatever a selector draws at random, it draws from that name.
    """

    item: str
    history: tuple[Message, ...]
    candidates: tuple[str, ...]


class NoChoice(StrEnum):
    """Why a selector named no candidate."""

    NONE_GOOD = "none good"
    UNREADABLE = "unreadable"  # its answers named neither one candidate nor none


@dataclass(frozen=True)
class Comparison:
    """Two whole dialogues on one situation, in the order in which the judge is to read them."""

    first: tuple[Message, ...]
    second: tuple[Message, ...]


@dataclass(frozen=True)
class Verdict:
    vote: Literal["first", "second", "tie", "unreadable"]
    raw_response: str | None = None


class Annotator(Protocol):
    name: str

    def annotate(
        self, dialogues: Sequence[Sequence[Message]]
    ) -> Iterator[tuple[LabelledUtterance, ...] | RejectedDialogue]:
        """One label an utterance, or the reason why a dialogue has none (paper appendix B); in order, as they come."""
        ...


class Selector(Protocol):
    name: str

    def expect(self, choices: int) -> None:
        """Told, before the first choice, how many there may be at most."""
        ...

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        """The index of the best candidate of each choice, or why there is none (paper §3.4).

        Several threads may ask at a time.
        """
        ...


class Judge(Protocol):
    name: str

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
        """Which dialogue's assistant is the better social chatbot (paper §3.6, appendix A); in order, as they come."""
        ...
