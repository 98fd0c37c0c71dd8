"""Votes of people from `kedro sage arena`: one file a rater, which grows with each vote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from sage_dialog.datasets.factory import ReadOnlyDataset
from sage_dialog.datasets.protocol import EntryState

if TYPE_CHECKING:
    from sage_dialog.studio.arena.vote_file import HumanVote


class HumanVotes(ReadOnlyDataset):
    """The valid votes by rater; an empty dictionary where nobody has voted.

    Args:
        filepath: a local folder; the votes of a rater are at `<filepath>/<rater>.jsonl`.
    """

    read_only = "Votes are cast at the arena, `kedro sage arena`; no node writes them."

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        if "://" in filepath:
            raise DatasetError(f"{filepath} is no local folder, and votes are kept in a local folder only.")
        self.folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> dict[str, list[HumanVote]]:
        from sage_dialog.studio.arena.vote_file import VoteFileError, read_folder

        try:
            return read_folder(self.folder)
        except VoteFileError as error:
            raise DatasetError(str(error)) from error

    def describe_input(self) -> EntryState:
        return EntryState(files={path.name: path for path in sorted(self.folder.glob("*.jsonl"))})

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder)}
