"""Tables of previous runs, for a stage that comes before the one that writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kedro.io import DatasetError, Version

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.datasets.factory import ReadOnlyDataset
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.protocol import EntryState
from sage_dialog.datasets.schema import TableSchema
from sage_dialog.lineage.masking import mask_secrets


class PreviousTables(ReadOnlyDataset):
    """Versioned tables of one folder and schema, opened by name.

    As inputs of their own name they would close a circle: the first policy learns from dialogues of later ones. A load
    gives a function that opens `trajectories_2`, the latest version, or `trajectories_2:VERSION`.

    Args:
        folder: a path or an fsspec address; a table is at `<folder>/<name>.parquet/<version>/<name>.parquet`.
        schema: the name of a schema in `sage_dialog.schemas`.
        credentials: keyword arguments of the fsspec file system.
    """

    read_only = "This entry is only read: the stage that makes a table writes it."

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
        """The version of each table opened so far."""
        self.metadata = metadata

    def load(self) -> Callable[[str], DataFrame]:
        return self._open

    def describe_input(self) -> EntryState:
        """Return folder and schema, and the versions of the tables opened so far under `tables`."""
        tables = {"tables": dict(sorted(self.opened.items()))} if self.opened else {}
        return EntryState(definition={**mask_secrets(self._describe()), **tables})  # a folder may be a URL with a login

    def explain_missing_table(self, name: str) -> str | None:
        """Return which table or version is missing; None where it exists."""
        if self._dataset(name).exists():
            return None
        table, _, version = name.partition(":")
        missing = f"no version {version} of {table}" if version else f"no {table}"
        return f"There is {missing} in {self._folder}. Run the pipeline that writes it, or name another."

    def _dataset(self, name: str) -> AtomicParquet:
        table, _, version = name.partition(":")
        return AtomicParquet(
            filepath=f"{self._folder}/{table}.parquet",
            version=Version(version or None, None),
            credentials=self._credentials,
        )

    def _open(self, name: str) -> DataFrame:
        if missing := self.explain_missing_table(name):
            raise DatasetError(missing)
        dataset = self._dataset(name)
        self.opened[name.partition(":")[0]] = str(dataset.resolve_load_version())
        return TableSchema(self._schema).validate(dataset.load())

    def _describe(self) -> dict[str, Any]:
        return {"folder": self._folder, "schema": self._schema}


class OptionalTable(ReadOnlyDataset):
    """The latest version of a table that need not exist; an empty table where it does not.

    Args:
        filepath: as of the entry that writes it.
        schema: the name of its schema in `sage_dialog.schemas`.
    """

    read_only = PreviousTables.read_only

    def __init__(self, *, filepath: str, schema: str, metadata: dict[str, Any] | None = None) -> None:
        self._place = filepath
        self._schema = TableSchema(schema)
        self.metadata = metadata

    def load(self) -> DataFrame:
        table = self._table()
        return self._schema.validate(table.load()) if table.exists() else from_rows([], self._schema.expected)

    def describe_input(self) -> EntryState:
        """Return the file under a name without its version: the same content is the same input."""
        path = Path(str(table._get_load_path())) if (table := self._table()).exists() else None
        return EntryState(files={path.name: path} if path else {})

    def _table(self) -> AtomicParquet:
        return AtomicParquet(filepath=self._place, version=Version(None, None))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._place, "schema": self._schema.name}
