"""Progress of one rater: the next ballot, votes and undo."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sage_dialog.studio.arena.ballots import Ballot
from sage_dialog.studio.arena.vote_file import HumanVote, Vote, VoteFile


class BallotError(ValueError):
    """The vote is not on the current ballot; it comes from a second window or an outdated page."""


class Session:
    """Iterate over the ballots that have no vote yet, in their order."""

    def __init__(self, ballots: Sequence[Ballot], file: VoteFile) -> None:
        self.rater = file.rater
        self._ballots = {ballot.id: ballot for ballot in ballots}
        self._file = file
        self._undone: HumanVote | None = None
        self._given: set[str] = set()

    @property
    def given(self) -> int:
        """Number of valid votes of this session."""
        return len(self._given)

    @property
    def left(self) -> int:
        """Number of ballots without a vote."""
        return len(self._ballots.keys() - self._file.votes.keys())

    def state(self) -> dict[str, Any]:
        """Return the state of the page for JSON: progress and the next two dialogues, without names of policies.

        `opening` is the first user message if both dialogues share it. `comment` is that of a vote just undone.
        """
        ballot = self._next()
        shown: dict[str, Any] | None = None
        if ballot is not None:
            dialogues = (ballot.comparison.first, ballot.comparison.second)
            shared = dialogues[0][:1] == dialogues[1][:1]
            shown = {
                "id": ballot.id,
                "opening": dialogues[0][0].text if shared else None,
                "dialogues": [
                    [{"role": message.role, "text": message.text} for message in dialogue[int(shared) :]]
                    for dialogue in dialogues
                ],
            }
        return {
            "done": len(self._ballots) - self.left,
            "total": len(self._ballots),
            "can_undo": self._last() is not None,
            "comment": self._undone.comment if self._undone else None,
            "ballot": shown,
        }

    def vote(self, ballot_id: str, vote: Vote, comment: str | None) -> None:
        """Save a vote on the current ballot; it is on disk on return.

        Raises:
            BallotError: if another ballot is the current one.
            VoteFileError: if the vote cannot be written.
        """
        ballot = self._next()
        if ballot is None or ballot.id != ballot_id:
            raise BallotError("This pair is no longer the current one; nothing was saved.")
        self._file.add(
            HumanVote(
                at=datetime.now(UTC),
                situation_id=ballot.situation_id,
                first=ballot.first,
                second=ballot.second,
                first_digest=ballot.digests[0],
                second_digest=ballot.digests[1],
                vote=vote,
                comment=(comment or "").strip() or None,
            )
        )
        self._undone = None
        self._given.add(ballot.id)

    def undo(self) -> None:
        """Undo the last vote on one of these ballots, which becomes the current one.

        Raises:
            BallotError: if there is no vote.
            VoteFileError: if the undo cannot be written.
        """
        last = self._last()
        if last is None:
            raise BallotError("There is no vote to undo.")
        self._undone = self._file.undo(last.ballot, datetime.now(UTC))
        self._given.discard(last.ballot)

    def _next(self) -> Ballot | None:
        if self._undone:
            return self._ballots[self._undone.ballot]
        return next((ballot for id_, ballot in self._ballots.items() if id_ not in self._file.votes), None)

    def _last(self) -> HumanVote | None:
        return next((vote for vote in reversed(self._file.votes.values()) if vote.ballot in self._ballots), None)
