"""Text and JSON files with atomic versioned saves."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from kedro_datasets.json import JSONDataset
from kedro_datasets.text import TextDataset

from sage_dialog.datasets.atomic import AtomicMixin
from sage_dialog.lineage.content import RUN_LINE


class AtomicText(AtomicMixin, TextDataset):
    """`text.TextDataset` in UTF-8 with atomic saves, such as a section of the report."""

    kind = "text file"
    DEFAULT_FS_ARGS: ClassVar[dict[str, Any]] = {
        "open_args_save": {"mode": "w", "encoding": "utf-8"},
        "open_args_load": {"mode": "r", "encoding": "utf-8"},
    }

    def fault(self, path: str) -> str | None:
        return None if self._fs.size(path) else "it is empty"


class AtomicPage(AtomicText):
    """An HTML page, such as the report. Its line `RUN_LINE` names the run; comparisons of versions leave that out."""

    kind = "HTML page"
    run: str | None = None
    """The run that saves, in words; None outside a run."""

    def write(self, data: str, path: Path) -> None:
        named = f"{RUN_LINE}<p>{escape(self.run)}</p>\n" if self.run else f"{RUN_LINE}\n"
        lines = data.splitlines(keepends=True)
        super().write("".join(named if line.startswith(RUN_LINE) else line for line in lines), path)


class AtomicJSON(AtomicMixin, JSONDataset):
    """`json.JSONDataset` with atomic saves."""

    kind = "JSON file"

    def fault(self, path: str) -> str | None:
        try:
            json.loads(self._fs.cat_file(path))
        except ValueError as error:
            return f"it is no JSON: {error}"
        return None
