"""What each source of the training mix holds: dialogues by id, and what is no dialogue to learn from, with reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path, PurePath

import pyarrow as pa

from sage_dialog.config import Source
from sage_dialog.core.tables import to_arrow
from sage_dialog.corpora.conversations import Conversation, read_conversations, role_fault
from sage_dialog.corpora.rejects import Reject
from sage_dialog.dialogue import Message
from sage_dialog.sac import Annotated, Chain, Intent, augment, parse

OTHER_ROLE = {"user": "assistant", "assistant": "user"}

OpenTrajectories = Callable[[str], pa.Table]
"""Opens the table (schemas.TRAJECTORIES) that an earlier run wrote, by `trajectories_2` or `trajectories_2:VERSION`."""


@dataclass(frozen=True)
class Pool:
    """What a source holds. Only dialogues that are drawn are asked for by `turns`."""

    ids: Sequence[str]
    turns: Callable[[str], tuple[Message, ...]]
    rejects: Sequence[Reject]


class Sources:
    """Where the mix is drawn from.

    Args:
        annotations: schemas.ANNOTATIONS.
        files: instruction data by file name (`corpora.conversations`).
        open_trajectories: asked only for what a source names.
    """

    def __init__(self, annotations: pa.Table, files: Mapping[str, Path], open_trajectories: OpenTrajectories) -> None:
        self._annotations = annotations
        self._files = files
        self._open_trajectories = open_trajectories
        self._taken: dict[str, str] = {}

    def pool(self, source: Source) -> Pool:
        """The dialogues of a source.

        Raises:
            ValueError: naming the source, if it names no file, a file of another source, or one that cannot be read.
        """
        match source.kind:
            case "listener" | "speaker":
                return self._annotated(source)
            case "instructions":
                return self._instructions(source)
            case "trajectories":
                return self._played(source)

    @property
    def untaken(self) -> list[str]:
        """Files in no pool that was made, if any was made of files."""
        return [name for name in self._files if self._taken and name not in self._taken]

    def _annotated(self, source: Source) -> Pool:
        faults = {
            name: fault
            for name, dialogue in self._dialogues.items()
            if (fault := dialogue if isinstance(dialogue, str) else _fault(_side(dialogue, source), source))
        }
        ids = [name for name in self._dialogues if name not in faults]
        return Pool(ids, partial(self._augmented, source), [Reject(*each) for each in faults.items()])

    def _augmented(self, source: Source, name: str) -> tuple[Message, ...]:
        dialogue = self._dialogues[name]
        assert not isinstance(dialogue, str), "a dialogue with a fault is in no pool"
        said = _side(dialogue, source)
        return tuple(
            Message(each.role, message["content"], each.text) for each, message in zip(said, augment(said), strict=True)
        )

    @cached_property
    def _dialogues(self) -> dict[str, list[Annotated] | str]:
        """Annotated dialogues by id; of one whose labels are none, what is wrong with them."""
        dialogues: dict[str, list[Annotated] | str] = {}
        for name, rows in groupby(self._annotation_rows(), key=lambda row: row[0]):
            try:
                dialogues[name] = [
                    Annotated(speaker, text, Intent(motivation, emotion, tuple(topics or ())))
                    for _, speaker, text, motivation, emotion, topics in rows
                ]
            except ValueError as error:
                dialogues[name] = f"labels that the chain cannot hold: {error}"
        return dialogues

    def _annotation_rows(self) -> Iterator[tuple]:
        columns = ["dialogue_id", "speaker", "text", "motivation", "emotion", "topics"]
        ordered = self._annotations.sort_by([("dialogue_id", "ascending"), ("turn", "ascending")]).select(columns)
        for batch in ordered.to_batches(max_chunksize=4096):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def _instructions(self, source: Source) -> Pool:
        files = {name: path for name, path in self._files.items() if PurePath(name).match(source.of or "*")}
        if not files:
            raise ValueError(
                f"source {source.name!r} of the mix: no file is called {source.of or 'anything'}; "
                f"there are {', '.join(self._files) or 'none'}"
            )
        for name in files:
            if (other := self._taken.setdefault(name, source.name)) != source.name:
                raise ValueError(
                    f"source {source.name!r} of the mix: {name} belongs to the source {other!r} already; "
                    "let `of` of each name files of its own"
                )
        try:
            conversations, rejects = read_conversations(files, source.assistant_opens)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"source {source.name!r} of the mix: {error}") from error
        told = {conversation.id: conversation for conversation in conversations}
        return Pool(list(told), lambda name: _told(told[name]), rejects)

    def _played(self, source: Source) -> Pool:
        assert source.of is not None, "parameters.Source sees to it"
        columns = ["situation_id", "turn", "role", "text", "content"]
        played: dict[str, list[Message]] = {}
        for row in to_arrow(self._open_trajectories(source.of)).select(columns).sort_by("turn").to_pylist():
            played.setdefault(row["situation_id"], []).append(Message(row["role"], row["content"], row["text"]))
        spoken = {name: up_to_last_reply(turns) for name, turns in played.items()}
        faults = {
            name: fault for name, turns in spoken.items() if (fault := _fault(turns, source) or _unblocked(turns))
        }
        ids = [name for name in spoken if name not in faults]
        return Pool(ids, lambda name: tuple(spoken[name]), [Reject(*each) for each in faults.items()])


def up_to_last_reply(turns: Sequence[Message]) -> Sequence[Message]:
    """What comes behind the assistant's last message teaches nothing."""
    last = max((place for place, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    return turns[: last + 1]


def _side(dialogue: Sequence[Annotated], source: Source) -> Sequence[Annotated]:
    """A dialogue as the source tells it. The speaker's side is the same dialogue with the roles changed."""
    if source.kind == "listener":
        return dialogue
    return [Annotated(OTHER_ROLE.get(said.role, said.role), said.text, said.intent) for said in dialogue]


def _told(conversation: Conversation) -> tuple[Message, ...]:
    return conversation.messages


def _fault(turns: Sequence[Annotated] | Sequence[Message], source: Source) -> str | None:
    if fault := role_fault([turn.role for turn in turns], source.assistant_opens):
        return fault
    return None if all(turn.text.strip() for turn in turns) else "a message without text"


def _unblocked(turns: Sequence[Message]) -> str | None:
    replies = (turn.content for turn in turns if turn.role == "assistant")
    return None if all(isinstance(parse(reply), Chain) for reply in replies) else "a reply without readable blocks"
