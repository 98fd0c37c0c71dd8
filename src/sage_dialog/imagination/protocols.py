"""The two roles of imagination, by rules (`rules`) or by a language model (`llm`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sage_dialog.config.tasks import Task
from sage_dialog.dialogue import Message


@dataclass(frozen=True)
class Persona:
    """A user of a task: what both sides know, what the user alone knows, and the user in words."""

    id: str
    shared: Mapping[str, str]
    hidden: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class ImaginedDialogue:
    """A dialogue with a persona.

    Attributes:
        messages: the user opens; without blocks. Empty where there is no dialogue.
        last_state: the user's variables at the end, where the task's rules made the dialogue.
        invalid_reason: why there is no dialogue.
    """

    messages: tuple[Message, ...]
    last_state: Mapping[str, str]
    invalid_reason: str | None = None


@dataclass(frozen=True)
class Critique:
    """What a critique makes of a dialogue.

    Attributes:
        faults: against the task's criteria, in words.
        messages: the dialogue after the critique; empty where it is dropped.
        last_state: the user's variables at the end, on which the reward depends.
    """

    verdict: Literal["keep", "rewrite", "drop"]
    faults: tuple[str, ...]
    messages: tuple[Message, ...]
    last_state: Mapping[str, str]


class Imaginer(Protocol):
    name: str

    def personas(self, name: str, task: Task, count: int, seed: int) -> list[Persona]:
        """Return personas of the task `name`."""
        ...

    def imagine(self, name: str, task: Task, personas: Sequence[Persona], seed: int) -> Iterator[ImaginedDialogue]:
        """Yield a dialogue with each persona."""
        ...


class DialogueCritic(Protocol):
    name: str

    def critique(
        self, name: str, task: Task, dialogues: Sequence[tuple[Persona, ImaginedDialogue]]
    ) -> Iterator[Critique]:
        """Yield the critique of each dialogue with its persona. None of them is without messages."""
        ...
