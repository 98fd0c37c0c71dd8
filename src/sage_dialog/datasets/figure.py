"""Figures as PNG images with atomic versioned saves."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from kedro.io import DatasetError
from kedro_datasets.matplotlib import MatplotlibDataset

from sage_dialog.datasets.atomic import AtomicMixin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PNG_BEGIN, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


class AtomicFigure(AtomicMixin, MatplotlibDataset):
    """`matplotlib.MatplotlibDataset` for PNG images with atomic saves; equal figures are saved as equal bytes.

    A save takes a matplotlib `Figure`, or the bytes of a PNG image. A load returns the bytes.
    """

    kind = "PNG image"
    # The file holds no software version and no date, and has the figure's own resolution.
    DEFAULT_SAVE_ARGS: ClassVar[dict[str, Any]] = {"format": "png", "dpi": "figure", "metadata": {"Software": None}}

    def fault(self, path: str) -> str | None:
        image = self._fs.cat_file(path)
        return None if image.startswith(PNG_BEGIN) and image.endswith(PNG_END) else "it is no complete PNG image"

    def read(self, path: PurePath) -> bytes:
        image: bytes = self._fs.cat_file(str(path))
        if not image.startswith(PNG_BEGIN):
            raise ValueError("it does not begin as one.")
        return image

    def write(self, data: Figure | bytes, path: Path) -> None:
        if not isinstance(data, bytes):
            super().write(data, path)
        elif data.startswith(PNG_BEGIN):
            path.write_bytes(data)
        else:
            raise DatasetError("These bytes are no PNG image.")
