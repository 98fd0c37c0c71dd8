"""Raw data: a folder of files in their own format, dropped in by the user or made by the microworld."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from sage_dialog.datasets.atomic import whole_folder

MADE_HERE = ".made-here.json"


class RawFolder(AbstractDataset[dict[str, bytes], dict[str, Path]]):
    """Files of one folder, by name. Not versioned: this is data from outside.

    Loading gives the paths of the files that match one of `patterns`, sorted by name. Saving swaps the
    whole folder, and refuses to replace files that this project did not write.

    Args:
        filepath: the folder.
        patterns: file name patterns such as `RC_*`; each must match a file.
        made_by: the command that fills the folder with generated data.
    """

    def __init__(
        self, *, filepath: str, patterns: list[str], made_by: str, metadata: dict[str, Any] | None = None
    ) -> None:
        self.folder = Path(filepath)
        self.patterns = tuple(patterns)
        self.made_by = made_by
        self.metadata = metadata

    def load(self) -> dict[str, Path]:
        if not self._exists():
            raise DatasetError(self.missing())
        return self._files()

    def save(self, data: dict[str, bytes]) -> None:
        unmatched = [name for name in data if not any(Path(name).match(pattern) for pattern in self.patterns)]
        if unmatched or any(Path(name).name != name for name in data):
            raise DatasetError(f"File names {unmatched or sorted(data)} do not match {' or '.join(self.patterns)}.")
        if foreign := self._foreign():
            raise DatasetError(
                f"{self.folder} holds files that this project did not write ({', '.join(foreign[:3])}"
                f"{', …' if len(foreign) > 3 else ''}); they are not replaced. Move them away, or keep generated data "
                "elsewhere: SAGE_DATA=another/folder kedro run …"
            )
        with whole_folder(self.folder) as partial:
            for name, content in data.items():
                (partial / name).write_bytes(content)
            sizes = {name: len(content) for name, content in sorted(data.items())}
            (partial / MADE_HERE).write_text(json.dumps(sizes, indent=2) + "\n")

    def missing(self) -> str:
        """What to tell the person whose data is not there."""
        absent = [pattern for pattern in self.patterns if not self._matches(pattern)]
        return (
            f"there is no {' and no '.join(absent)} in {self.folder}. Put your data there, or generate some: "
            f"`{self.made_by}`."
        )

    def _matches(self, pattern: str) -> list[Path]:
        return [path for path in self.folder.glob(pattern) if path.is_file() and not path.name.startswith(".")]

    def _files(self) -> dict[str, Path]:
        found = {path for pattern in self.patterns for path in self._matches(pattern)}
        return {path.name: path for path in sorted(found)}

    def _foreign(self) -> list[str]:
        """Files in the folder that the last save did not write, or that have changed since."""
        if not self.folder.is_dir():
            return []
        try:
            ours = json.loads((self.folder / MADE_HERE).read_text())
        except (OSError, ValueError):
            ours = {}
        there = {str(path.relative_to(self.folder)): path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        return [
            name
            for name, path in there.items()
            if name not in {MADE_HERE, ".gitkeep"} and ours.get(name) != path.stat().st_size
        ]

    def _exists(self) -> bool:
        return all(self._matches(pattern) for pattern in self.patterns)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder), "patterns": self.patterns}
