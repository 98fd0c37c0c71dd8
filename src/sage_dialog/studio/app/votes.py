"""The rater of the studio, and votes on two policies side by side."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast, get_args

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.studio.arena.ballots import dialogue_digest
from sage_dialog.studio.arena.counting import CHAT
from sage_dialog.studio.arena.session import Session
from sage_dialog.studio.arena.vote_file import MAX_COMMENT, HumanVote, Vote, VoteFile, VoteFileError, VoteNotSavedError
from sage_dialog.studio.chat.conversation import chat_messages
from sage_dialog.studio.chat.files import conversation_record
from sage_dialog.studio.chat.talks import Side, Talk, TalkFolder


class PlanBallots(Protocol):
    """Returns the arena's session for a file of votes. Raises ValueError if there are no dialogues to compare."""

    def __call__(self, file: VoteFile) -> Session: ...


class Rater:
    """Who votes in this studio: one name, whose file stays locked until the end.

    Args:
        open_file: opens the file of a rater. Raises VoteFileError.
        plan: plans the arena's ballots.
    """

    def __init__(self, open_file: Callable[[str], VoteFile], plan: PlanBallots, name: str | None = None) -> None:
        self._open_file, self._plan = open_file, plan
        self.file: VoteFile | None = open_file(name) if name else None
        self._session: Session | None = None

    @property
    def name(self) -> str | None:
        """The name; None until there is one."""
        return self.file.rater if self.file is not None else None

    def enter(self, name: str) -> VoteFile:
        """Return the file of a rater, who keeps it. Raises VoteFileError if the name is invalid, or another votes."""
        if self.file is None:
            self.file = self._open_file(name.strip())
        elif name and name.strip() != self.name:
            raise VoteFileError(f"{self.name} votes in this studio; start another one for {name.strip()}.")
        return self.file

    def session(self) -> Session | None:
        """Return the arena's session; None without a rater. Raises ValueError if there are no dialogues to compare."""
        if self._session is None and self.file is not None:
            self._session = self._plan(self.file)
        return self._session

    @property
    def opened_session(self) -> Session | None:
        """The arena's session where it was opened."""
        return self._session

    def close(self) -> None:
        """Release the file."""
        if self.file is not None:
            self.file.close()


class ChatVotes:
    """Votes on conversations with two policies.

    Args:
        dialogues: the folder of the dialogues that were voted on.
        seed: the engine's.
    """

    def __init__(self, rater: Rater, folder: TalkFolder, dialogues: Path, seed: int) -> None:
        self._rater, self._folder, self._dialogues, self._seed = rater, folder, dialogues, seed

    @property
    def rater(self) -> str | None:
        """Who votes."""
        return self._rater.name

    def ballot(self, talk: Talk) -> str | None:
        """Return the id of the ballot on the dialogues so far; None where there is none, or one has voted on it.

        There is none where only one policy has replied.
        """
        lengths = {len(side.branches.path()) for side in talk.sides}
        if talk.busy or len(lengths) > 1 or lengths == {0}:
            return None
        ballot = _vote(talk, "tie", "").ballot
        return None if ballot in talk.voted else ballot

    def vote(self, talk: Talk, vote: str, comment: str, rater: str) -> None:
        """Save a vote; it is on disk on return.

        Raises:
            ValueError: if the vote or the rater's name is invalid, or there is no ballot, or nothing can be written.
        """
        if vote not in get_args(Vote):
            raise ValueError(f"A vote is first, second or tie, not {vote!r}.")
        if len(comment) > MAX_COMMENT:
            raise ValueError(f"The comment has {len(comment):,} characters; the limit is {MAX_COMMENT:,}.")
        file = self._rater.enter(rater)
        if self.ballot(talk) is None:
            raise ValueError("There is a vote on these dialogues already, or no reply yet.")
        for side in talk.sides:
            self._keep(talk, side)
        cast_vote = _vote(talk, cast(Vote, vote), comment)
        if cast_vote.ballot not in file.votes:
            file.add(cast_vote)
        talk.voted.append(cast_vote.ballot)
        self._folder.save(talk)

    def _keep(self, talk: Talk, side: Side) -> None:
        """Write a dialogue that is voted on, under its digest."""
        turns = side.branches.turns()
        path = self._dialogues / f"{dialogue_digest(chat_messages(turns))}.jsonl"
        record = conversation_record(side.policy, side.blocks, self._seed, talk.settings, turns)
        try:
            with atomic_file(path) as partial:
                partial.write_text(record, "utf-8", errors="replace")
        except OSError as error:
            raise VoteNotSavedError(f"Not saved: {path} is not writable: {error.strerror}.") from error


def _vote(talk: Talk, vote: Vote, comment: str) -> HumanVote:
    first, second = (dialogue_digest(chat_messages(side.branches.turns())) for side in talk.sides)
    return HumanVote(
        at=datetime.now(UTC),
        situation_id=f"{CHAT}{talk.id}",
        first=talk.sides[0].policy,
        second=talk.sides[1].policy,
        first_digest=first,
        second_digest=second,
        vote=vote,
        comment=comment.strip() or None,
    )
