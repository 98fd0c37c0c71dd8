"""Conversations of the studio and the folder in which each is saved after every change."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ValidationError

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.studio.chat.branches import Branch, Branches
from sage_dialog.studio.chat.conversation import ChatTurn, Settings, written_reply
from sage_dialog.studio.chat.drawing import Drawing
from sage_dialog.studio.chat.policies import TalkPolicy

TALK_ID = re.compile(r"[0-9a-f]{12}")
LOCK_S = 10.0
"""Until a conversation that another studio locks is not saved; a save takes milliseconds."""


class NoSuchTalkError(LookupError):
    """There is no conversation of this id, or its file is damaged."""


@dataclass
class Side:
    """What one policy has in a conversation; two sides get the same messages.

    Attributes:
        candidates: replies to choose from for the last turn.
        drawing: the reply that is being drawn, or that failed.
    """

    policy: str
    blocks: bool
    branches: Branches = field(default_factory=Branches)
    candidates: tuple[ChatTurn, ...] = ()
    drawing: Drawing | None = None
    context_left: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a reply is being drawn."""
        return self.drawing is not None and not self.drawing.finished

    @property
    def failed(self) -> bool:
        """Whether the last reply, or the candidates, failed."""
        return self.drawing is not None and self.drawing.error is not None


@dataclass(frozen=True)
class Unanswered:
    """A message that has no reply yet.

    Attributes:
        after: of each side, the number of the turn that it follows; None at the beginning.
    """

    text: str
    after: tuple[int | None, ...]


@dataclass
class Talk:
    """A conversation with one policy, or with two side by side.

    Attributes:
        blind: whether the names of the two policies are hidden until a vote.
        voted: ballots on its dialogues.
        unanswered: the message that has no reply yet.
    """

    id: str
    created: datetime
    settings: Settings
    sides: tuple[Side, ...]
    blind: bool = False
    voted: list[str] = field(default_factory=list)
    unanswered: Unanswered | None = None

    @classmethod
    def new(cls, policies: Sequence[TalkPolicy], settings: Settings, blind: bool) -> Talk:
        """Return an empty conversation. A blind one has its sides in a random order."""
        sides = [Side(policy.name, policy.blocks) for policy in policies]
        if blind:
            secrets.SystemRandom().shuffle(sides)
        return cls(secrets.token_hex(6), datetime.now(UTC), settings, tuple(sides), blind)

    @property
    def busy(self) -> bool:
        """Whether a reply is being drawn."""
        return any(side.busy for side in self.sides)

    @property
    def title(self) -> str:
        """The first message."""
        turns = self.sides[0].branches.turns()
        if turns:
            return turns[0].user
        return "(empty)" if self.unanswered is None else self.unanswered.text

    @property
    def hidden(self) -> bool:
        """Whether the names of the policies are hidden."""
        return self.blind and not self.voted


class _SavedBranch(BaseModel, frozen=True, extra="forbid"):
    parent: int | None
    policy: str
    blocks: bool
    user: str
    reply: str
    settings: Settings
    draws: int
    invalid_reason: str | None
    log_probability: float | None


class _SavedSide(BaseModel, frozen=True, extra="forbid"):
    policy: str
    blocks: bool
    last: int | None
    turns: tuple[_SavedBranch, ...]


class _SavedTalk(BaseModel, frozen=True, extra="forbid"):
    id: str
    created: AwareDatetime
    settings: Settings
    blind: bool
    voted: tuple[str, ...]
    unanswered: Unanswered | None
    sides: tuple[_SavedSide, ...]


@dataclass
class _Opened:
    """A conversation, and what its file had when it was last read or written here.

    Attributes:
        version: of the file; None of a conversation that was never saved.
        turns: the number of turns of each side.
    """

    talk: Talk
    version: tuple[int, int] | None = None
    turns: tuple[int, ...] = ()
    unanswered: Unanswered | None = None


class TalkFolder:
    """The conversations of the studio, one file each. A file is complete, also after a kill.

    Several studios can work on one folder: each reads what another has saved, and keeps its turns.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, _Opened] = {}
        self._deleted: set[str] = set()

    def get(self, talk_id: str) -> Talk:
        """Return a conversation. Raises NoSuchTalkError if there is none."""
        opened = self._open.get(talk_id)
        if opened is None or (not opened.talk.busy and opened.version != self._version(talk_id)):
            self._open.pop(talk_id, None)
            version = self._version(talk_id)  # before the file is read: a later one is noticed
            self._note(self._read(talk_id), version)
        return self._open[talk_id].talk

    def save(self, talk: Talk) -> None:
        """Write a conversation; it is on disk on return. One that was deleted while a reply was drawn is left out.

        Raises:
            ValueError: if it cannot be written.
        """
        if talk.id in self._deleted:
            return
        path = self._path(talk.id)
        opened = self._open.setdefault(talk.id, _Opened(talk))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / ".lock", LOCK_S):
                if opened.version not in (None, self._version(talk.id)):
                    self._merge(talk, opened)
                content = json.dumps(_saved(talk).model_dump(mode="json"))
                with atomic_file(path) as partial:
                    partial.write_text(content + "\n", "utf-8")
                self._note(talk, self._version(talk.id))
        except Timeout:
            raise ValueError(f"The conversation is not saved: {self._folder / '.lock'} is locked.") from None
        except OSError as error:
            raise ValueError(f"The conversation is not saved: {path}: {error.strerror}.") from error

    def delete(self, talk_id: str) -> None:
        """Remove a conversation. Raises NoSuchTalkError if there is none."""
        self.get(talk_id)
        del self._open[talk_id]
        self._deleted.add(talk_id)
        self._path(talk_id).unlink(missing_ok=True)

    def latest(self, number: int) -> list[Talk]:
        """Return the conversations that were changed last, the latest first; damaged files are left out."""
        files = sorted(self._folder.glob("*.json"), key=lambda path: self._version(path.stem) or (0, 0), reverse=True)
        talks: list[Talk] = []
        for path in files:
            try:
                talks.append(self.get(path.stem))
            except NoSuchTalkError:
                continue
            if len(talks) == number:
                break
        return talks

    def _note(self, talk: Talk, version: tuple[int, int] | None) -> None:
        turns = tuple(len(side.branches.all) for side in talk.sides)
        self._open[talk.id] = _Opened(talk, version, turns, talk.unanswered)

    def _version(self, talk_id: str) -> tuple[int, int] | None:
        """Return what changes with each save of a file; None where there is none."""
        try:
            status = self._path(talk_id).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _merge(self, talk: Talk, opened: _Opened) -> None:
        """Add what another studio has saved since; its turns come before those that are new here."""
        try:
            other = self._read(talk.id)
        except NoSuchTalkError:  # removed
            return
        for side, others, saved in zip(talk.sides, other.sides, opened.turns, strict=True):
            side.branches.insert(saved, others.branches)
        talk.voted += [ballot for ballot in other.voted if ballot not in talk.voted]
        if talk.unanswered is None and other.unanswered != opened.unanswered:  # it draws a reply
            talk.unanswered = other.unanswered

    def _path(self, talk_id: str) -> Path:
        return self._folder / f"{talk_id}.json"

    def _read(self, talk_id: str) -> Talk:
        if not TALK_ID.fullmatch(talk_id):
            raise NoSuchTalkError("There is no such conversation.")
        try:
            saved = _SavedTalk.model_validate_json(self._path(talk_id).read_bytes())
        except FileNotFoundError:
            raise NoSuchTalkError("There is no such conversation.") from None
        except (OSError, ValidationError) as error:
            raise NoSuchTalkError(f"{self._path(talk_id)} cannot be read: {error}") from error
        sides = tuple(_opened(side) for side in saved.sides)
        if saved.unanswered is not None:
            stopped = "The studio was stopped before the reply was complete."
            side = min(sides, key=lambda each: len(each.branches.path()))  # that did not reply
            parent = saved.unanswered.after[sides.index(side)]
            side.drawing = Drawing(saved.unanswered.text, side.blocks, parent, finished=True, error=stopped)
        return Talk(saved.id, saved.created, saved.settings, sides, saved.blind, list(saved.voted), saved.unanswered)


def _saved(talk: Talk) -> _SavedTalk:
    def branch(each: Branch) -> _SavedBranch:
        fields: dict[str, Any] = {name: getattr(each, name) for name in ("parent", "policy", "blocks")}
        fields |= {name: getattr(each.turn, name) for name in ("user", "settings", "draws")}
        reply = each.turn.reply
        return _SavedBranch(
            reply=reply.text, invalid_reason=reply.invalid_reason, log_probability=reply.log_probability, **fields
        )

    sides = tuple(
        _SavedSide(
            policy=side.policy,
            blocks=side.blocks,
            last=side.branches.last,
            turns=tuple(branch(each) for each in side.branches.all),
        )
        for side in talk.sides
    )
    return _SavedTalk(
        id=talk.id,
        created=talk.created,
        settings=talk.settings,
        blind=talk.blind,
        voted=tuple(talk.voted),
        unanswered=talk.unanswered,
        sides=sides,
    )


def _opened(saved: _SavedSide) -> Side:
    branches = Branches(last=saved.last)
    for each in saved.turns:
        reply = written_reply(each.reply, each.blocks, each.invalid_reason, each.log_probability)
        turn = ChatTurn(each.user, reply, each.settings, each.draws)
        branches.all.append(Branch(each.parent, each.policy, each.blocks, turn))
    return Side(saved.policy, saved.blocks, branches)
