"""Tables that earlier runs wrote, for a stage that comes before the one that writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError, Version

from sage_dialog.core.tables import DataFrame
from sage_dialog.datasets.parquet import VersionedParquet
from sage_dialog.datasets.schema import TableSchema


class EarlierTables(AbstractDataset[NoReturn, Callable[[str], DataFrame]]):
    """Versioned tables of one folder and schema, by name, each read when it is asked for.

    As an input of their own name they would close a circle: the first policy learns from what later ones played.
    Loading gives a function that opens `trajectories_2`, the latest version, or `trajectories_2:VERSION`.

    Args:
        folder: a path or an fsspec address; a table lies at `<folder>/<name>.parquet/<version>/<name>.parquet`.
        schema: the name of a schema of `schemas.py`.
        credentials: keyword arguments of the fsspec file system.
    """

    def __init__(
        self,
        *,
        folder: str,
        schema: str,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._folder = folder.rstrip("/")
        self._schema = schema
        self._credentials = credentials
        self.opened: dict[str, str] = {}
        """The version of each table that was asked for."""
        self.metadata = metadata

    def load(self) -> Callable[[str], DataFrame]:
        return self._open

    def save(self, data: NoReturn) -> None:
        raise DatasetError(f"{self} is only read: the stage that makes a table writes it.")

    def missing(self, name: str) -> str | None:
        """What to tell whoever names a table that is not there; None where it is."""
        if self._dataset(name).exists():
            return None
        table, _, version = name.partition(":")
        there = f"no version {version} of {table}" if version else f"no {table}"
        return f"There is {there} in {self._folder}. Run the pipeline that makes it, or name another."

    def _dataset(self, name: str) -> VersionedParquet:
        table, _, version = name.partition(":")
        return VersionedParquet(
            filepath=f"{self._folder}/{table}.parquet",
            version=Version(version or None, None),
            credentials=self._credentials,
        )

    def _open(self, name: str) -> DataFrame:
        if told := self.missing(name):
            raise DatasetError(told)
        name, dataset = name.partition(":")[0], self._dataset(name)
        self.opened[name] = str(dataset.resolve_load_version())
        return TableSchema(self._schema).validate(dataset.load())

    def _exists(self) -> bool:
        return True  # a table that is missing is missed when it is asked for

    def _describe(self) -> dict[str, Any]:
        return {"folder": self._folder, "schema": self._schema}
