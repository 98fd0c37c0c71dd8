"""Tables as Parquet files, one folder a version, visible only when whole."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, NewType

import fsspec
import pyarrow as pa
from kedro.io import DatasetError, Version
from kedro.io.core import get_protocol_and_path

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.core.tables import DataFrame, from_arrow, to_arrow, to_rows
from sage_dialog.datasets.versions import WholeVersions, parquet_fault
from sage_dialog.lineage.content import Content, of_stream

# kedro-viz decides by the name of this type how it shows a preview.
TablePreview = NewType("TablePreview", dict)


class VersionedParquet(WholeVersions[DataFrame]):
    """A `pyarrow.Table` in one zstd-compressed Parquet file.

    With `versioned: true` a table lies at `<filepath>/<version>/<name of filepath>`. On a local disk a save
    that is killed leaves no version behind; an object store shows an object only once it is complete. A
    file that Parquet cannot read gives an error that names it.

    Args:
        filepath: a path or an fsspec address (`s3://bucket/dialogues.parquet`).
        credentials: keyword arguments of the fsspec file system.
    """

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        protocol, path = get_protocol_and_path(filepath, version)
        self._files = fsspec.filesystem(protocol, **(credentials or {}))
        self._local = protocol == "file"
        self.metadata = metadata
        super().__init__(PurePosixPath(path), version, self._files.exists, self._files.glob)

    def load(self) -> DataFrame:
        import pyarrow.parquet as pq

        path = self._get_load_path()
        try:
            with self._files.open(str(path), "rb") as file:
                return from_arrow(pq.ParquetFile(file).read())
        except (pa.ArrowException, OSError) as error:
            if not self._files.exists(str(path)):
                raise DatasetError(f"{path} does not exist.") from error
            raise DatasetError(
                f"{path} is no readable Parquet file: {error} It was cut off, or something else wrote it. "
                f"Remove {path.parent if self._version else path} and run the pipeline that makes it."
            ) from error

    def save(self, data: DataFrame) -> None:
        import pyarrow.parquet as pq

        data = data if isinstance(data, pa.Table) else to_arrow(data)
        path = self._get_save_path()
        if self._local:
            with atomic_file(Path(path)) as partial:
                pq.write_table(data, partial, compression="zstd")
        else:
            whole = pa.BufferOutputStream()  # closing a remote file after an error would keep what was written so far
            pq.write_table(data, whole, compression="zstd")
            self._files.pipe_file(str(path), whole.getvalue().to_pybytes())
        self._files.invalidate_cache(str(self._filepath))

    def fault(self, path: str) -> str | None:
        """See `WholeVersions.fault`."""
        try:
            with self._files.open(path, "rb") as file:
                return parquet_fault(file, self._files.size(path))
        except OSError as error:
            return f"it cannot be read: {error}"

    def content(self, version: str) -> Content:
        """See `WholeVersions.content`."""
        if self._local:
            return super().content(version)
        path = str(self._get_versioned_path(version))
        with self._files.open(path, "rb") as file:
            return Content(int(self._files.size(path)), 0, of_stream(file))

    def preview(self, nrows: int = 10) -> TablePreview:
        """The first rows, as kedro-viz shows them."""
        head = self.load().head(nrows)
        rows = [[str(value) for value in row.values()] for row in to_rows(head)]
        return TablePreview({"index": list(range(len(rows))), "columns": list(head.columns), "data": rows})

    def _exists(self) -> bool:
        return bool(self._files.isfile(str(self._get_load_path())))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}
