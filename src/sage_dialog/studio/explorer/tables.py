"""The tables that the explorer shows, each read once for each version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sage_dialog.core.tables import DataFrame

Built = TypeVar("Built")


@dataclass(frozen=True)
class Tables:
    """Tables by name.

    Attributes:
        iterations: returns the iterations of self-play that were searched.
        version: returns the latest version of a table; None where there is none.
        load: returns a version of a table. Raises ValueError if it cannot be read.
        missing: returns which command makes a table.
    """

    iterations: Callable[[], Sequence[int]]
    version: Callable[[str], str | None]
    load: Callable[[str, str], DataFrame]
    missing: Callable[[str], str]


class TableCache:
    """What is built from tables, until one of them has a new version. Requests of several threads build it once."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._built: dict[str, tuple[tuple[str | None, ...], Any]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, build: Callable[..., Built], *of: str, optional: Sequence[str] = ()) -> Built:
        """Return `build` of the latest versions of tables; None stands for an optional one that does not exist.

        Raises:
            LookupError: if a table does not exist, naming the command that makes it.
            ValueError: if one cannot be read.
        """
        names = (*of, *optional)
        with self._lock:
            versions = tuple(map(self.tables.version, names))
            for each, version in zip(names, versions, strict=True):
                if version is None and each not in optional:
                    raise LookupError(self.tables.missing(each))
            if name not in self._built or self._built[name][0] != versions:
                self._built.pop(name, None)  # before the new one needs its memory
                loaded = [
                    None if version is None else self.tables.load(each, version)
                    for each, version in zip(names, versions, strict=True)
                ]
                self._built[name] = (versions, build(*loaded))
            return self._built[name][1]
