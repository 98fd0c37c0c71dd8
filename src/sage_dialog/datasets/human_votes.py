"""People's votes, as `kedro sage arena` keeps them: a file a rater, which grows with each vote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from sage_dialog.studio.arena.vote_file import HumanVote


class HumanVotes(AbstractDataset[NoReturn, dict[str, "list[HumanVote]"]]):
    """The votes that stand, by rater; none where nobody has voted. Not versioned: this is data from outside.

    Args:
        filepath: a local folder; the votes of a rater lie at `<filepath>/<rater>.jsonl`.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> dict[str, list[HumanVote]]:
        from sage_dialog.studio.arena.vote_file import VoteFileError, read_folder

        try:
            return read_folder(self.folder)
        except VoteFileError as error:
            raise DatasetError(str(error)) from error

    def save(self, data: NoReturn) -> None:
        raise DatasetError("Votes are given at the arena, `kedro sage arena`; no node writes them.")

    def _exists(self) -> bool:
        return True  # no votes are none

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder)}
