"""Tables as Parquet files with atomic versioned saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import ParquetDataset

from sage_dialog.core.tables import DataFrame, to_arrow, to_rows
from sage_dialog.datasets.atomic import AtomicMixin

_MAGIC = b"PAR1"


class AtomicParquet(AtomicMixin, ParquetDataset):
    """`pandas.ParquetDataset` with Arrow dtypes, zstd compression and atomic saves.

    Nested lists, structs and nullable integers survive a round trip. The arguments are those of
    `kedro_datasets.pandas.ParquetDataset`.
    """

    kind = "Parquet file"
    DEFAULT_LOAD_ARGS: ClassVar[dict[str, Any]] = {"engine": "pyarrow", "dtype_backend": "pyarrow"}
    DEFAULT_SAVE_ARGS: ClassVar[dict[str, Any]] = {"compression": "zstd"}

    def write(self, data: DataFrame, path: Path) -> None:
        """Write the columns without pandas' own metadata, in which plain pandas cannot read nested Arrow types."""
        import pyarrow.parquet as pq

        pq.write_table(to_arrow(data), path, **self._save_args)

    def fault(self, path: str) -> str | None:
        """Return what is wrong at the two ends of a file, footer included; None for a complete one."""
        try:
            size = self._fs.size(path)
            with self._fs.open(path, "rb") as file:
                begin = file.read(4)
                file.seek(max(0, size - 8))
                end = file.read(8)
        except OSError as error:
            return f"it cannot be read: {error}"
        if size < 12 or begin != _MAGIC or end[4:] != _MAGIC:
            return "it is no readable Parquet file"
        if int.from_bytes(end[:4], "little") > size - 12:
            return "it is no readable Parquet file, its footer is cut"
        return None

    def preview(self, nrows: int = 10) -> TablePreview:
        """Return the first rows for kedro-viz, values as text."""
        head = self.load().head(nrows)
        rows: list[list[Any]] = [[str(value) for value in row.values()] for row in to_rows(head)]
        return TablePreview({"index": list(range(len(rows))), "columns": list(head.columns), "data": rows})
