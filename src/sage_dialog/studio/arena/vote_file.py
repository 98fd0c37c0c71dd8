"""A rater's votes on disk: one JSON object a line, only ever appended, on disk before the next pair is shown."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sage_dialog.core.atomic_files import atomic_file

RATER = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
LONGEST_COMMENT = 2000  # characters

Vote = Literal["first", "second", "tie"]


class VoteFileError(ValueError):
    """A rater's file cannot be used; the message says which, where in it, and what to do."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime


class HumanVote(_Line):
    """One vote: what was shown first and second, each named with a digest of its words, and which was better."""

    situation_id: str
    first: str
    second: str
    first_digest: str
    second_digest: str
    vote: Vote
    comment: str | None = Field(None, max_length=LONGEST_COMMENT)

    @property
    def ballot(self) -> str:
        """See `ballot_id`."""
        return ballot_id(self.situation_id, (self.first, self.first_digest), (self.second, self.second_digest))


class _Undone(_Line):
    undone: str  # the ballot


def ballot_id(situation_id: str, *shown: tuple[str, str]) -> str:
    """What a vote is on: two policies, each with the digest of its dialogue, whichever is first."""
    return digest([situation_id, *sorted(shown)])


def digest(value: object) -> str:
    """A name for anything that JSON can write, by all that is in it: 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


class VoteFile:
    """The votes of one rater, open for more. One process at a time has it; killed, it leaves it to the next.

    Raises:
        VoteFileError: if the rater's name is none, the file is open elsewhere, damaged, or cannot be written.
    """

    def __init__(self, folder: Path, rater: str) -> None:
        if not RATER.fullmatch(rater):
            raise VoteFileError(
                f"{rater!r} is no name for a rater: take 1 to 32 of a to z, 0 to 9, - and _, a letter or digit first."
            )
        self.rater = rater
        self.path = folder / f"{rater}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / f".{rater}.lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise VoteFileError(f"{rater} is voting already, in another window: {self.path} is open there.") from None
        except OSError as error:
            raise VoteFileError(f"{folder} cannot be written: {error.strerror}") from error
        try:
            self.standing, whole = _read(self.path)
            self._mend(whole)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise VoteFileError(f"{self.path} cannot be written: {error.strerror}") from error
            raise

    def close(self) -> None:
        self._lock.release()

    def add(self, vote: HumanVote) -> None:
        """On disk when it returns; raises VoteFileError where it is not, and the file is as before."""
        self._append(vote)
        self.standing[vote.ballot] = vote

    def undo(self, ballot: str, at: datetime) -> HumanVote:
        """Takes back the vote on a ballot, which stays in the file; raises like `add`."""
        self._append(_Undone(undone=ballot, at=at))
        return self.standing.pop(ballot)

    def _append(self, line: _Line) -> None:
        try:
            if not self.path.exists():
                with atomic_file(self.path) as partial:
                    partial.write_bytes(_text(line))
                return
            with self.path.open("ab") as file:
                size = file.tell()
                try:
                    file.write(_text(line))
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.truncate(self.path, size)
                    raise
        except OSError as error:
            raise VoteFileError(f"Not saved: {self.path} cannot be written: {error.strerror}.") from error

    def _mend(self, whole: bytes | None) -> None:
        """Ends a file whose writer was killed amid a line with the last whole one."""
        if whole is not None:
            with atomic_file(self.path) as partial:
                partial.write_bytes(whole)


def read_folder(folder: Path) -> dict[str, list[HumanVote]]:
    """The votes that stand, by rater in order of their names, each rater's in the order in which they were given.

    Raises:
        VoteFileError: naming the file and line that is no vote, or the file whose name is no rater's.
    """
    votes = {}
    for path in sorted(folder.glob("*.jsonl")):
        if not RATER.fullmatch(path.stem):
            raise VoteFileError(f"{path} is named after no rater, such as anna.jsonl; rename it, or move it away.")
        votes[path.stem] = list(_read(path)[0].values())
    return votes


def _text(line: _Line) -> bytes:
    return json.dumps(line.model_dump(mode="json")).encode() + b"\n"


def _read(path: Path) -> tuple[dict[str, HumanVote], bytes | None]:
    """The votes that stand, and what the file should hold where its last line is not whole."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}, None
    except OSError as error:
        raise VoteFileError(f"{path} cannot be read: {error.strerror}") from error
    whole, _, tail = content.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    mended = None
    if tail:  # a kill amid writing, before the vote counted as given; or an editor that ends no last line
        if _parsed(tail) is None:
            mended = content[: len(content) - len(tail)]
        else:
            lines.append(tail)
            mended = content + b"\n"
    standing: dict[str, HumanVote] = {}
    for number, line in enumerate(lines, start=1):
        entry = _parsed(line)
        if fault := _fault(entry, standing):
            raise VoteFileError(f"{path}, line {number}: {fault}. Mend the file, or move it away and vote anew.")
        if isinstance(entry, _Undone):
            del standing[entry.undone]
        elif entry:
            standing[entry.ballot] = entry
    return standing, mended


def _fault(entry: HumanVote | _Undone | None, standing: Mapping[str, HumanVote]) -> str | None:
    if entry is None:
        return "is no vote"
    if isinstance(entry, _Undone):
        return None if entry.undone in standing else "takes back a vote that does not stand"
    return "votes once more on what a line before it votes on" if entry.ballot in standing else None


def _parsed(line: bytes) -> HumanVote | _Undone | None:
    for kind in (HumanVote, _Undone):
        try:
            return kind.model_validate_json(line)
        except ValidationError:
            continue
    return None
