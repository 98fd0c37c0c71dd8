"""What an annotator, a selector and a judge must do.

Each takes a batch and answers in the same order, so that a version behind a server can keep many calls
in flight. Roles see utterances without blocks, never a policy's name or its training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sage_dialog.sac import Intent


@dataclass(frozen=True)
class Said:
    """One utterance of a dialogue as the other side hears it. `role` is "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class Labelled:
    """An annotator's reading of one utterance; `text` is its more readable wording."""

    intent: Intent
    text: str


@dataclass(frozen=True)
class Rejected:
    """Why a dialogue could not be annotated, and what the annotator said."""

    reason: str
    raw_reply: str | None = None


@dataclass(frozen=True)
class Choice:
    """One agent turn to decide: what was said so far and the candidates' utterances, all different and valid.

    `item` names the turn; whatever a selector draws at random, it draws from that name.
    """

    item: str
    history: tuple[Said, ...]
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two whole dialogues on one situation, in the order in which the judge is to read them."""

    first: tuple[Said, ...]
    second: tuple[Said, ...]


@dataclass(frozen=True)
class Verdict:
    vote: Literal["first", "second", "tie", "unreadable"]
    raw_reply: str | None = None


class Annotator(Protocol):
    name: str

    def annotate(self, dialogues: Sequence[Sequence[Said]]) -> list[tuple[Labelled, ...] | Rejected]:
        """One label an utterance, or the reason why a dialogue has none (paper appendix B)."""
        ...


class Selector(Protocol):
    name: str

    def select(self, choices: Sequence[Choice]) -> list[int | None]:
        """The index of the best candidate of each choice; None where none will do (paper §3.4)."""
        ...


class Judge(Protocol):
    name: str

    def judge(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Which dialogue's assistant is the better social chatbot (paper §3.6, appendix A)."""
        ...
