"""The protocol by which run records, staleness and replays read a catalog entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable


@dataclass(frozen=True)
class EntryState:
    """What a catalog entry holds at a moment. Fields that do not apply are None.

    Attributes:
        version: the version that a load opens or that a save has written; of versioned entries.
        path: the local file or folder of that version; None on an object store.
        files: local files by name, of a folder of raw data or of a base.
        remote_files: (bytes, time of change in ns) by name, of a folder of raw data on an object store.
        definition: what decides the entry's behaviour, JSON-like and without secrets; of roles, engines and hub models.
    """

    version: str | None = None
    path: Path | None = None
    files: Mapping[str, Path] | None = None
    remote_files: Mapping[str, tuple[int, int]] | None = None
    definition: Mapping[str, Any] | None = None


@runtime_checkable
class TrackedDataset(Protocol):
    """A catalog entry that run records know how to describe."""

    def describe_input(self) -> EntryState:
        """Return what a load reads now. Raises DatasetError or VersionNotFoundError where there is nothing."""
        ...

    def describe_output(self) -> EntryState | None:
        """Return what the last save wrote; None for entries that nothing is saved to."""
        ...

    def at_version(self, version: str) -> Self:
        """Return the same entry with its load version fixed."""
        ...

    def at_folder(self, current: Path, other: Path) -> Self:
        """Return the same entry with its place moved from under `current` to the same place under `other`."""
        ...

    def code_paths(self) -> list[str]:
        """Return dotted paths of other classes that do the work of this entry; their code counts as the node's."""
        ...

    def explain_missing(self) -> str | None:
        """Return what is missing and what to do, one sentence each; None where nothing is missing."""
        ...
