"""Pages as a zip archive that opens without a server. The same pages give the same bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest time of a zip archive."""


def zip_pages(pages: Mapping[str, str]) -> bytes:
    """Return HTML pages by file name as an archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, html in pages.items():
            entry = zipfile.ZipInfo(name, FIXED_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, html.encode("utf-8", "replace"))
    return archive.getvalue()
