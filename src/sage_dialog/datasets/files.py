"""Text and JSON files with atomic versioned saves."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from kedro_datasets.json import JSONDataset
from kedro_datasets.text import TextDataset

from sage_dialog.datasets.atomic import AtomicMixin


class AtomicText(AtomicMixin, TextDataset):
    """`text.TextDataset` in UTF-8 with atomic saves, such as the HTML report."""

    kind = "text file"
    DEFAULT_FS_ARGS: ClassVar[dict[str, Any]] = {
        "open_args_save": {"mode": "w", "encoding": "utf-8"},
        "open_args_load": {"mode": "r", "encoding": "utf-8"},
    }

    def fault(self, path: str) -> str | None:
        return None if self._fs.size(path) else "it is empty"


class AtomicJSON(AtomicMixin, JSONDataset):
    """`json.JSONDataset` with atomic saves."""

    kind = "JSON file"

    def fault(self, path: str) -> str | None:
        try:
            json.loads(self._fs.cat_file(path))
        except ValueError as error:
            return f"it is no JSON: {error}"
        return None
