"""Sources of the training mix: the dialogues of each, and rejects with their reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

from sage_dialog.config import Source
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.corpora.conversations import read_conversations, role_fault
from sage_dialog.corpora.rejects import InputDataError, Reject
from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.sac.augmentation import augment
from sage_dialog.selfplay.tables import messages_by_dialogue

OTHER_ROLE = {"user": "assistant", "assistant": "user"}

_NAMED_PREFIXES = 5  # of dialogue ids, in an error

OpenTrajectories = Callable[[str], DataFrame]
"""Open the table (schemas.TRAJECTORIES) of an earlier run: `trajectories_2`, or `trajectories_2:VERSION`."""


@dataclass(frozen=True)
class SourcePool:
    """The dialogues of a source: their ids, a function that builds the messages of one, and the rejects."""

    ids: Sequence[str]
    messages: Callable[[str], Sequence[Message]]
    rejects: Sequence[Reject]


class SourceReader:
    """Read the sources of a mix.

    Args:
        annotations: schemas.ANNOTATIONS.
        files: instruction data by file name (`corpora.conversations`).
        open_trajectories: called for sources of the kind "trajectories" only.
    """

    def __init__(self, annotations: DataFrame, files: Mapping[str, Path], open_trajectories: OpenTrajectories) -> None:
        self._annotations = annotations
        self._files = files
        self._open_trajectories = open_trajectories
        self._file_sources: dict[str, str] = {}

    def read(self, source: Source) -> SourcePool:
        """Return the dialogues of a source.

        Raises:
            ValueError: naming the source, if it names no file, a file of another source, or an unreadable file.
        """
        match source.kind:
            case "listener" | "speaker":
                return self._read_annotated(source)
            case "instructions":
                return self._read_instructions(source)
            case "trajectories":
                return self._read_trajectories(source)

    @property
    def unused_files(self) -> list[str]:
        """Files that no source has read, where some source has read files."""
        return [name for name in self._files if self._file_sources and name not in self._file_sources]

    def _read_annotated(self, source: Source) -> SourcePool:
        dialogues = {
            name: dialogue
            for name, dialogue in self._annotated_dialogues.items()
            if source.of is None or fnmatchcase(name, source.of)
        }
        if source.of is not None and not dialogues:
            corpora = sorted({name.partition("/")[0] for name in self._annotated_dialogues})[:_NAMED_PREFIXES]
            raise InputDataError(
                f"source {source.name!r} of the mix: no annotated dialogue has an id that matches {source.of}; ids "
                f"begin with {', '.join(corpora) or 'nothing: there are no annotations'}"
            )
        faults = {}
        for name, dialogue in dialogues.items():
            fault = dialogue if isinstance(dialogue, str) else _fault(_from_side(dialogue, source), source)
            if fault:
                faults[name] = fault
        ids = [name for name in dialogues if name not in faults]
        return SourcePool(ids, partial(self._augmented, source), [Reject(*each) for each in faults.items()])

    def _augmented(self, source: Source, name: str) -> list[Message]:
        dialogue = self._annotated_dialogues[name]
        assert not isinstance(dialogue, str), "a dialogue with a fault is in no pool"
        return augment(_from_side(dialogue, source), [intent for _, intent in dialogue])

    @cached_property
    def _annotated_dialogues(self) -> dict[str, list[tuple[Message, Intent]] | str]:
        """Messages with their labels by dialogue id; the fault instead where labels are invalid."""
        columns = ["dialogue_id", "turn", "role", "text", "motivation", "emotion", "topics"]
        rows = to_rows(self._annotations[columns].sort_values(["dialogue_id", "turn"]))
        dialogues: dict[str, list[tuple[Message, Intent]] | str] = {}
        for name, utterances in groupby(rows, key=lambda row: row["dialogue_id"]):
            try:
                dialogues[name] = [(Message(row["role"], row["text"]), _intent(row)) for row in utterances]
            except ValueError as error:
                dialogues[name] = f"labels that the chain cannot hold: {error}"
        return dialogues

    def _read_instructions(self, source: Source) -> SourcePool:
        files = {name: path for name, path in self._files.items() if PurePath(name).match(source.of or "*")}
        if not files:
            raise InputDataError(
                f"source {source.name!r} of the mix: no file matches {source.of or '*'}; "
                f"the files are {', '.join(self._files) or 'none'}"
            )
        for name in files:
            if (other := self._file_sources.setdefault(name, source.name)) != source.name:
                raise InputDataError(
                    f"source {source.name!r} of the mix: {name} belongs to the source {other!r} already; "
                    "let `of` of each match different files"
                )
        try:
            conversations, rejects = read_conversations(files, source.assistant_opens)
        except InputDataError as error:
            raise InputDataError(f"source {source.name!r} of the mix: {error}") from error
        messages = {conversation.id: conversation.messages for conversation in conversations}
        return SourcePool(list(messages), messages.__getitem__, rejects)

    def _read_trajectories(self, source: Source) -> SourcePool:
        assert source.of is not None, "validated by config.Source"
        dialogues = messages_by_dialogue(self._open_trajectories(source.of))
        messages = {name: up_to_last_reply(dialogue) for name, dialogue in dialogues.items()}
        faults = {
            name: fault
            for name, dialogue in messages.items()
            if (fault := _fault(dialogue, source) or _block_fault(dialogue))
        }
        ids = [name for name in messages if name not in faults]
        return SourcePool(ids, messages.__getitem__, [Reject(*each) for each in faults.items()])


def up_to_last_reply(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages up to the assistant's last one; later ones have no loss."""
    last = max((place for place, message in enumerate(messages) if message.role == "assistant"), default=-1)
    return messages[: last + 1]


def _intent(row: Mapping[str, Any]) -> Intent:
    return Intent(row["motivation"], row["emotion"], tuple(row["topics"] or ()))


def _from_side(dialogue: Sequence[tuple[Message, Intent]], source: Source) -> list[Message]:
    """Return the messages from the side of a source; the speaker's has the roles exchanged."""
    roles = {} if source.kind == "listener" else OTHER_ROLE
    return [replace(message, role=roles.get(message.role, message.role)) for message, _ in dialogue]


def _fault(messages: Sequence[Message], source: Source) -> str | None:
    if fault := role_fault([message.role for message in messages], source.assistant_opens):
        return fault
    return None if all(message.text.strip() for message in messages) else "a message without text"


def _block_fault(messages: Sequence[Message]) -> str | None:
    replies = (message.content for message in messages if message.role == "assistant")
    return None if all(isinstance(parse(reply), Chain) for reply in replies) else "a reply without readable blocks"
