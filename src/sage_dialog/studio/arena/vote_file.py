"""A rater's votes on disk: append-only JSON lines, each synced before the next ballot."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, ValidationError

from sage_dialog.core.atomic_files import atomic_file

RATER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
MAX_COMMENT = 2000  # characters

Vote = Literal["first", "second", "tie"]


class VoteFileError(ValueError):
    """A rater's file cannot be used; the message names the file, the line and the remedy."""


class VoteNotSavedError(VoteFileError):
    """A vote cannot be written."""


class HumanVote(BaseModel, frozen=True, extra="forbid"):
    """One vote: the first and second policy, each with the digest of its dialogue, and which was better."""

    at: AwareDatetime
    situation_id: str
    first: str
    second: str
    first_digest: str
    second_digest: str
    vote: Vote
    comment: str | None = Field(None, max_length=MAX_COMMENT)

    @property
    def ballot(self) -> str:
        """The id of the ballot."""
        return ballot_id(self.situation_id, (self.first, self.first_digest), (self.second, self.second_digest))


class _Undo(BaseModel, frozen=True, extra="forbid"):
    at: AwareDatetime
    undone: str  # id of the ballot


_LINE: TypeAdapter[HumanVote | _Undo] = TypeAdapter(HumanVote | _Undo)


def ballot_id(situation_id: str, *dialogues: tuple[str, str]) -> str:
    """Return the id of a comparison of two (policy, digest of the dialogue), in either order."""
    return digest([situation_id, *sorted(dialogues)])


def digest(value: object) -> str:
    """Return a digest of a JSON value: 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


class VoteFile:
    """The votes of one rater, locked by one process at a time; the lock ends with the process.

    Raises:
        VoteFileError: if the rater's name is invalid, or the file is locked, damaged, or not writable.
    """

    def __init__(self, folder: Path, rater: str) -> None:
        if not RATER.fullmatch(rater):
            raise VoteFileError(
                f"{rater!r} is not a valid rater name: use 1 to 32 of a to z, 0 to 9, - and _, a letter or digit first."
            )
        self.rater = rater
        self.path = folder / f"{rater}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f".{rater}.lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise VoteFileError(f"{rater} is already voting in another window: {self.path} is locked.") from None
        except OSError as error:
            raise VoteFileError(f"{folder} is not writable: {error.strerror}") from error
        try:
            self.votes, repaired = _read(self.path)
            if repaired is not None:
                self._replace(repaired)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise VoteFileError(f"{self.path} is not writable: {error.strerror}") from error
            raise

    def close(self) -> None:
        self._lock.release()

    def add(self, vote: HumanVote) -> None:
        """Append a vote; it is on disk on return.

        Raises:
            VoteFileError: if it cannot be written; the file is then unchanged.
        """
        self._append(vote)
        self.votes[vote.ballot] = vote

    def undo(self, ballot: str, at: datetime) -> HumanVote:
        """Append that the vote on a ballot is undone; raises like `add`."""
        self._append(_Undo(undone=ballot, at=at))
        return self.votes.pop(ballot)

    def _append(self, line: HumanVote | _Undo) -> None:
        text = json.dumps(line.model_dump(mode="json")).encode() + b"\n"
        try:
            if not self.path.exists():
                self._replace(text)
                return
            with self.path.open("ab") as file:
                size = file.tell()
                try:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, size)
                    raise
        except OSError as error:
            raise VoteNotSavedError(f"Not saved: {self.path} is not writable: {error.strerror}.") from error

    def _replace(self, content: bytes) -> None:
        with atomic_file(self.path) as partial:
            partial.write_bytes(content)


def read_folder(folder: Path) -> dict[str, list[HumanVote]]:
    """Return the valid votes by rater, sorted by name, each rater's in the order of voting.

    Raises:
        VoteFileError: naming the invalid file and line, or the file not named after a rater.
    """
    votes = {}
    for path in sorted(folder.glob("*.jsonl")):
        if not RATER.fullmatch(path.stem):
            raise VoteFileError(f"{path} is not named after a rater, such as anna.jsonl; rename it, or move it away.")
        votes[path.stem] = list(_read(path)[0].values())
    return votes


def _read(path: Path) -> tuple[dict[str, HumanVote], bytes | None]:
    """Return the valid votes by ballot, and the repaired content of a file whose last line is incomplete."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        raise VoteFileError(f"{path} cannot be read: {error.strerror}") from error
    complete, _, tail = content.rpartition(b"\n")
    lines = complete.split(b"\n") if complete else []
    repaired = None
    if tail:  # written partly by a killed process, whose vote was not yet saved; or without a final newline
        if _parse(tail) is None:
            repaired = content[: len(content) - len(tail)]
        else:
            lines.append(tail)
            repaired = content + b"\n"
    votes: dict[str, HumanVote] = {}
    for number, line in enumerate(lines, start=1):
        entry = _parse(line)
        fault = None
        if entry is None:
            fault = "not a vote"
        elif isinstance(entry, _Undo):
            if votes.pop(entry.undone, None) is None:
                fault = "undoes a vote that does not exist"
        elif votes.setdefault(entry.ballot, entry) is not entry:
            fault = "a second vote on the same pair of dialogues"
        if fault:
            raise VoteFileError(f"{path}, line {number}: {fault}. Correct the file, or move it away and vote anew.")
    return votes, repaired


def _parse(line: bytes) -> HumanVote | _Undo | None:
    try:
        return _LINE.validate_json(line)
    except ValidationError:
        return None
