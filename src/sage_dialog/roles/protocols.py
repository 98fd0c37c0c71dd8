"""Protocols of the roles: annotator, selector and judge.

Each takes many items and returns results in their order, so that a role on a server can keep many calls in flight.
Roles see utterances without blocks, and never a policy's name or its training data.
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
    """An annotator's labels of one utterance, and the utterance in a more readable wording.

    Attributes:
        kept_original: whether `text` is the original because the new wording differed too much from it.
    """

    intent: Intent
    text: str
    kept_original: bool = False


@dataclass(frozen=True)
class RejectedDialogue:
    """The reason why a dialogue was not annotated, and the annotator's last response."""

    reason: str
    raw_response: str | None = None


Annotation = tuple[LabelledUtterance, ...] | RejectedDialogue


def reject_empty(dialogue: Sequence[Message]) -> RejectedDialogue | None:
    """Return the rejection of a dialogue with an empty utterance."""
    empty = (position for position, message in enumerate(dialogue) if not message.text.strip())
    return next((RejectedDialogue(f"utterance {position} is empty") for position in empty), None)


@dataclass(frozen=True)
class Choice:
    """An agent turn to select a candidate for.

    Attributes:
        item: name of the turn; seeds all random draws of a selector.
        history: the dialogue so far.
        candidates: utterances, all different and valid.
    """

    item: str
    history: tuple[Message, ...]
    candidates: tuple[str, ...]


class NoChoice(StrEnum):
    """Why a selector selected no candidate."""

    NONE_GOOD = "none good"
    UNREADABLE = "unreadable"  # its responses named neither one candidate nor none


@dataclass(frozen=True)
class Comparison:
    """Two complete dialogues on one situation, in the order in which the judge reads them."""

    first: tuple[Message, ...]
    second: tuple[Message, ...]


@dataclass(frozen=True)
class Verdict:
    """A judge's vote on a comparison."""

    vote: Literal["first", "second", "tie", "unreadable"]
    raw_response: str | None = None


class Annotator(Protocol):
    name: str

    def annotate(self, dialogues: Sequence[Sequence[Message]]) -> Iterator[Annotation]:
        """Yield for each dialogue one label an utterance, or the reason why it has none (paper appendix B)."""
        ...


class Selector(Protocol):
    name: str

    def expect(self, choices: int) -> None:
        """Set the upper bound on the number of choices to come. Called before the first."""
        ...

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        """Return the index of the best candidate of each choice, or why there is none (paper §3.4). Thread-safe."""
        ...


class Judge(Protocol):
    name: str

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
        """Yield which dialogue's assistant is the better social chatbot (paper §3.6, appendix A)."""
        ...
