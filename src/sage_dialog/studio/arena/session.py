"""One rater at the arena: what is shown next, and what a vote does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sage_dialog.studio.arena.ballots import Ballot
from sage_dialog.studio.arena.vote_file import HumanVote, Vote, VoteFile


class NotAskedError(ValueError):
    """A vote on what is not asked now, as from a second window or a page from before."""


class Session:
    """Goes through the ballots that have no vote yet, in their order."""

    def __init__(self, ballots: Sequence[Ballot], file: VoteFile) -> None:
        self._ballots = {ballot.id: ballot for ballot in ballots}
        self._file = file
        self._again: HumanVote | None = None
        self._given: set[str] = set()

    @property
    def rater(self) -> str:
        return self._file.rater

    @property
    def given(self) -> int:
        """Votes of this session that stand."""
        return len(self._given)

    @property
    def left(self) -> int:
        """Ballots without a vote."""
        return len(self._ballots.keys() - self._file.standing.keys())

    def state(self) -> dict[str, Any]:
        """What the page shows, for JSON: how far it is, and the next two dialogues, without a policy's name.

        `opening` is what the user says first in both. `comment` is that of the vote just taken back.
        """
        ballot = self._next()
        shown: dict[str, Any] | None = None
        if ballot is not None:
            dialogues = (ballot.shown.first, ballot.shown.second)
            shared = dialogues[0][:1] == dialogues[1][:1]
            shown = {
                "id": ballot.id,
                "opening": dialogues[0][0].text if shared else None,
                "dialogues": [
                    [{"role": said.role, "text": said.text} for said in dialogue[int(shared) :]]
                    for dialogue in dialogues
                ],
            }
        return {
            "done": len(self._ballots) - self.left,
            "total": len(self._ballots),
            "can_undo": self._last() is not None,
            "comment": self._again.comment if self._again else None,
            "ballot": shown,
        }

    def vote(self, ballot_id: str, vote: Vote, comment: str | None) -> None:
        """On disk when it returns.

        Raises:
            NotAskedError: if another ballot is asked now.
            VoteFileError: if it cannot be written.
        """
        ballot = self._next()
        if ballot is None or ballot.id != ballot_id:
            raise NotAskedError("This pair is not asked any more; nothing was saved.")
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
        self._again = None
        self._given.add(ballot.id)

    def undo(self) -> None:
        """Takes back the last vote on one of these ballots, which is asked again at once.

        Raises:
            NotAskedError: if there is none.
            VoteFileError: if that cannot be written.
        """
        last = self._last()
        if last is None:
            raise NotAskedError("There is no vote to take back.")
        self._again = self._file.undo(last.ballot, datetime.now(UTC))
        self._given.discard(last.ballot)

    def _next(self) -> Ballot | None:
        if self._again:
            return self._ballots[self._again.ballot]
        return next((ballot for id_, ballot in self._ballots.items() if id_ not in self._file.standing), None)

    def _last(self) -> HumanVote | None:
        return next((vote for vote in reversed(self._file.standing.values()) if vote.ballot in self._ballots), None)
