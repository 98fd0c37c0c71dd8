"""Which version is the latest: the last one that is whole, and that a run has made."""

from __future__ import annotations

import json
import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import IO, Any, TypeVar

from kedro.io import AbstractVersionedDataset
from kedro.io.core import VersionNotFoundError

from sage_dialog.lineage.content import Content, content_of
from sage_dialog.lineage.records import RUN

logger = logging.getLogger(__name__)

Data = TypeVar("Data")

PNG_BEGINS, PNG_ENDS = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_PARQUET = b"PAR1"
_MOST_HEADER = 100_000_000  # bytes of JSON that safetensors allow


class WholeVersions(AbstractVersionedDataset[Data, Data]):
    """A versioned dataset whose latest version is never half a file, nor a folder that someone left there.

    Looked at from the latest on, a version that is not whole, or whose name is no run's, is passed over with a warning
    that names it. One that `--load-versions` names is opened whatever it is called. What the run itself has saved is
    what it loads, also where another run has saved a later version meanwhile.
    """

    @abstractmethod
    def fault(self, path: str) -> str | None:
        """What shows, without reading all of it, that a version is not whole; None where nothing does."""

    def content(self, version: str) -> Content:
        """What a version holds: bytes, time of change, sha256."""
        return content_of(Path(self._get_versioned_path(version)))

    def _fetch_latest_load_version(self) -> str:
        if self._cached_load_version is None:
            self._cached_load_version = self._own() or self._latest()
        return str(self._cached_load_version)

    def _own(self) -> str | None:
        own = (self._version.save if self._version else None) or self._cached_save_version
        return own if own and self._exists_function(str(self._get_versioned_path(own))) else None

    def _latest(self) -> str:
        faults: list[str] = []
        for path in self._candidates():
            name = PurePath(path).parent.name
            fault = self.fault(path) if RUN.fullmatch(name) else f"no run has the name {name!r}"
            if fault is None:
                for skipped in faults:
                    _warn(f"{skipped}. It is passed over; {name} is loaded. Remove it, or move it elsewhere.")
                return name
            faults.append(f"{path} is no version that can be loaded: {fault}")
        if not faults:
            raise VersionNotFoundError(f"Did not find any versions for {self}")
        for skipped in faults:
            _warn(f"{skipped}. It is passed over, and there is no other one.")
        raise VersionNotFoundError(
            f"{self._filepath} has no whole version: {'; '.join(faults)}. It was cut off, or something else put it "
            f"there. Remove {PurePath(path).parent} and run the pipeline that makes it."
        )

    def _candidates(self) -> Iterator[str]:
        """What may be a version, the latest first. Of thousands on a local disk only the first few are looked at."""
        if getattr(self, "_local", True):
            names = os.listdir(self._filepath) if os.path.isdir(self._filepath) else []
            paths: Iterable[str] = (str(self._get_versioned_path(name)) for name in sorted(names, reverse=True))
        else:
            paths = self._get_versions()
        for path in paths:
            if not PurePath(path).parent.name.startswith(".") and self._exists_function(path):
                yield path


@cache
def _warn(what: str) -> None:
    """Once in a process, however often the catalog is asked."""
    logger.warning(what)


def parquet_fault(file: IO[Any], size: int) -> str | None:
    """What is wrong at the two ends of a Parquet file, footer included."""
    begins = file.read(4)
    file.seek(max(0, size - 8))
    ends = file.read(8)
    if size < 12 or begins != _PARQUET or ends[4:] != _PARQUET:
        return "it is no readable Parquet file"
    if int.from_bytes(ends[:4], "little") > size - 12:
        return "it is no readable Parquet file, its footer is cut"
    return None


def png_fault(path: Path) -> str | None:
    """Whether a PNG image begins and ends as one."""
    image = path.read_bytes()
    return None if image.startswith(PNG_BEGINS) and image.endswith(PNG_ENDS) else "it is no whole PNG image"


def weights_fault(folder: Path) -> str | None:
    """Whether each safetensors file is as long as its header says."""
    for path in sorted(folder.rglob("*.safetensors")):
        if not (size := path.stat().st_size):
            return f"{path.name} is cut off: it is empty"
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > _MOST_HEADER:
                continue  # no such file at all; who opens the policy will say so
            try:
                header = json.loads(file.read(length))
                ends = max(
                    (part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"), default=0
                )
            except (ValueError, TypeError, KeyError, AttributeError):
                ends = size
        if size < 8 + length + ends:
            return f"{path.name} is cut off: {size:,} of {8 + length + ends:,} bytes"
    return None
