"""Atomic saves and complete latest versions, as a mixin for versioned datasets."""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from copy import copy
from functools import cache
from pathlib import Path, PurePath, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import fsspec
from kedro.io import DatasetError, Version
from kedro.io.core import VersionNotFoundError

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.core.paths import display_path, relocate
from sage_dialog.datasets.protocol import EntryState
from sage_dialog.lineage.content import Content, content_of, of_file
from sage_dialog.lineage.records import RUN, is_in_future

if TYPE_CHECKING:
    from kedro_datasets.pandas import ParquetDataset as Dataset  # or another of the same shape
else:
    Dataset = object  # Kedro wraps the `__init__` of its subclasses, and would skip the dataset's own

logger = logging.getLogger(__name__)


class AtomicMixin(Dataset):
    """Atomic saves for a versioned dataset, and a latest version that is complete.

    A class names it before the dataset whose `load` and `save` it uses::

        class AtomicText(AtomicMixin, TextDataset): ...

    A save writes beside the target, flushes to disk and renames; on an object store it uploads a file that is
    complete. A killed or failed save leaves no version.

    The latest version is the last complete one whose folder has a run's name; others are skipped with a warning. A
    version fixed by `--load-versions` may have any name. A run loads the version it has saved, also when another run
    has saved a later one since.
    """

    kind = "file"
    """What a version is, for error messages."""
    _protocol = "file"
    _cached_load_version: str | None

    @abstractmethod
    def fault(self, path: str) -> str | None:
        """Return why a version is incomplete, judged without reading all of it; None for a complete one."""

    def load(self) -> Any:
        path = self._get_load_path()
        try:
            return self.read(path)
        except (ValueError, OSError) as error:
            if not self._exists_function(str(path)):
                raise DatasetError(f"{path} does not exist.") from error
            raise DatasetError(
                f"{path} is no readable {self.kind}: {error} It was cut off, or something else wrote it. Remove "
                f"{path.parent if self._version else path} and run the pipeline that writes it."
            ) from error

    def read(self, path: PurePath) -> Any:
        """Return what is at the path of the version to load, by the `load` of the dataset class.

        Raises:
            ValueError, OSError: if it is not readable, with the reason as a sentence.
        """
        return super().load.__wrapped__(self)  # Kedro's wrapper is around this class's `load` already

    def save(self, data: Any) -> None:
        target = self._get_save_path()
        if self._protocol == "file":
            with self.atomic_target(Path(target)) as partial:
                self.write(data, partial)
        else:
            with TemporaryDirectory() as folder:
                complete = Path(folder) / target.name
                self.write(data, complete)
                self._fs.put_file(str(complete), str(target))
            self._fs.invalidate_cache(str(self._filepath))

    def atomic_target(self, target: Path) -> AbstractContextManager[Path]:
        """Return a context whose path is written to and becomes `target` at its end."""
        return atomic_file(target)

    def write(self, data: Any, path: Path) -> None:
        """Write to a local path by the `save` of the dataset class."""
        local = copy(self)
        local._protocol, local._fs = "file", fsspec.filesystem("file")
        local._filepath, local._version = PurePosixPath(path), None
        super().save.__wrapped__(local, data)  # Kedro's wrapper would look for the saved version

    @property
    def is_versioned(self) -> bool:
        return self._version is not None

    @property
    def versions_folder(self) -> Path | None:
        """The local folder of the versions; None without versions or on an object store."""
        return Path(self._filepath) if self.is_versioned and self._protocol == "file" else None

    def content(self, version: str) -> Content:
        """Return the size, time of change and sha256 of a version; the time is 0 on an object store."""
        path = self._get_versioned_path(version)
        if self._protocol == "file":
            return content_of(Path(path))
        with self._fs.open(str(path), "rb") as file:
            return Content(int(self._fs.size(str(path))), 0, of_file(file, path.name))

    def describe_input(self) -> EntryState:
        return self._state(self.resolve_load_version())

    def describe_output(self) -> EntryState:
        return self._state(self.resolve_save_version())

    @property
    def is_pinned(self) -> bool:
        """Whether the load version is fixed, such as by `--load-versions`."""
        return bool(self._version and self._version.load)

    def at_version(self, version: str) -> Self:
        return self._changed(_version=Version(version, self._version.save if self._version else None))

    def at_folder(self, current: Path, other: Path) -> Self:
        if self._protocol != "file":
            raise DatasetError(f"{self._filepath} is on an object store; only local entries can be moved.")
        return self._changed(_filepath=PurePosixPath(relocate(self._filepath, current, other)))

    def code_paths(self) -> list[str]:
        return []

    def explain_missing(self) -> str | None:
        if self.exists():
            return None
        place = display_path(self._filepath) if self._protocol == "file" else self._filepath
        if not self._version:
            return f"there is no {place}."
        found = [PurePath(path).parent.name for path in self._candidates()]
        if self.is_pinned and found:
            return f"there is no version {self._version.load} in {place}; there are {', '.join(found)}."
        return f"there is no {'complete ' if found else ''}version of {place}."

    def _state(self, version: str | None) -> EntryState:
        path = self._get_versioned_path(version) if version else self._filepath
        if not self._exists_function(str(path)):
            raise VersionNotFoundError(f"{path} does not exist.")
        return EntryState(version=version, path=Path(path) if self._protocol == "file" else None)

    def _changed(self, **attributes: Any) -> Self:
        changed = copy(self)
        changed.__dict__.update(attributes)
        changed._clear_version_cache()
        return changed

    def _fetch_latest_load_version(self) -> str:
        version = self._cached_load_version = (
            self._cached_load_version or self._own_version() or self.find_latest_version()
        )
        return version

    def _own_version(self) -> str | None:
        """Return the version that this run has saved, if it has."""
        own = (self._version.save if self._version else None) or self._cached_save_version
        return own if own and self._exists_function(str(self._get_versioned_path(own))) else None

    def find_latest_version(self) -> str:
        """Return the last complete version whose folder has a run's name. Raises VersionNotFoundError if none."""
        faults: list[str] = []
        for path in self._candidates():
            name = PurePath(path).parent.name
            fault = self.fault(path) if RUN.fullmatch(name) else f"no run has the name {name!r}"
            if fault is None:
                if is_in_future(name):
                    _warn_once(
                        f"{path} is dated in the future: a clock was ahead when it was written, or is behind now. It "
                        "stays the latest version until then. Correct the clock, or move that version away."
                    )
                for skipped in faults:
                    _warn_once(f"{skipped}. Skipped; {name} is loaded. Remove it or move it elsewhere.")
                return name
            faults.append(f"{path} cannot be loaded: {fault}")
        if not faults:
            raise VersionNotFoundError(f"Did not find any versions for {self}")
        for skipped in faults:
            _warn_once(f"{skipped}. Skipped, and there is no other version.")
        raise VersionNotFoundError(
            f"{self._filepath} has no complete version: {'; '.join(faults)}. It was cut off, or something else wrote "
            f"it. Remove {PurePath(path).parent} and run the pipeline that writes it."
        )

    def _candidates(self) -> Iterator[str]:
        """Yield paths of versions, the latest first; on the local disk, each is checked when it is reached."""
        if self._protocol == "file":
            names = os.listdir(self._filepath) if os.path.isdir(self._filepath) else []
            paths: Iterable[str] = (str(self._get_versioned_path(name)) for name in sorted(names, reverse=True))
        else:
            paths = self._get_versions()
        for path in paths:
            if not PurePath(path).parent.name.startswith(".") and self._exists_function(path):
                yield path


@cache
def _warn_once(message: str) -> None:
    """Log a warning once in a process."""
    logger.warning(message)
