"""Reports and figures: one text or binary file, visible only when whole."""

from __future__ import annotations

import base64
from pathlib import Path, PurePosixPath
from typing import Any, NewType, TypeVar

from kedro.io import DatasetError, Version

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.datasets.versions import PNG_BEGINS, WholeVersions, png_fault

# kedro-viz decides by the name of this type how it shows a preview.
ImagePreview = NewType("ImagePreview", str)

Content = TypeVar("Content")


class _WholeFile(WholeVersions[Content]):
    """One local file."""

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


class WholeText(_WholeFile[str]):
    """A UTF-8 text file, such as the HTML report."""

    def fault(self, path: str) -> str | None:
        """See `WholeVersions.fault`."""
        return None if Path(path).stat().st_size else "it is empty"

    def load(self) -> str:
        path = Path(self._get_load_path())
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} is no readable text file: {error}") from error

    def save(self, data: str) -> None:
        with atomic_file(Path(self._get_save_path())) as partial:
            partial.write_text(data, encoding="utf-8")


class WholeImage(_WholeFile[bytes]):
    """The bytes of a PNG image."""

    def fault(self, path: str) -> str | None:
        """See `WholeVersions.fault`."""
        return png_fault(Path(path))

    def load(self) -> bytes:
        path = Path(self._get_load_path())
        try:
            image = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"{path} is no readable file: {error}") from error
        if not image.startswith(PNG_BEGINS):
            raise DatasetError(f"{path} is no PNG image; remove {path.parent} and draw it again.")
        return image

    def save(self, data: bytes) -> None:
        if not data.startswith(PNG_BEGINS):
            raise DatasetError("These bytes are no PNG image.")
        with atomic_file(Path(self._get_save_path())) as partial:
            partial.write_bytes(data)

    def preview(self) -> ImagePreview:
        """The image in base64, as kedro-viz shows it."""
        return ImagePreview(base64.b64encode(self.load()).decode("ascii"))
