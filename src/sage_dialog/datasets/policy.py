"""Policies as versioned directories: weights, the card that says what they are, nothing that can run code."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import DatasetError, Version

from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.policies import CARD, Policy, TrainedPolicy
from sage_dialog.datasets.versions import WholeVersions, weights_fault

# Formats that execute code when they are opened; weights travel as safetensors.
CODE_SUFFIXES = frozenset({".bin", ".ckpt", ".h5", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".py"})


class PolicyDirectory(WholeVersions[Policy]):
    """A base model or an adapter at `<filepath>/<version>/<name>/`.

    Saving copies the directory of the given policy; a version appears only when the copy is whole, and then
    a policy just trained leaves the scratch folder. Loading opens the card and reads no weights.
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> Policy:
        path = Path(self._get_load_path())
        if fault := _fault(path):
            raise DatasetError(
                f"{path} is no whole policy directory: {fault}. Remove {path.parent} and run again; where no other "
                f"version of {self._filepath.name} is left, the run says which pipeline makes it."
            )
        return Policy.open(path)

    def fault(self, path: str) -> str | None:
        """See `WholeVersions.fault`."""
        return _fault(Path(path)) or weights_fault(Path(path))

    def save(self, data: Policy) -> None:
        if fault := _fault(data.path):
            raise DatasetError(f"{data.path} cannot be kept as a policy: {fault}.")
        with atomic_folder(Path(self._get_save_path())) as partial:
            shutil.copytree(data.path, partial, dirs_exist_ok=True)
        if isinstance(data, TrainedPolicy):
            data.forget()

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def _fault(path: Path) -> str | None:
    """Why a directory is no policy, or None where it is one."""
    if not path.is_dir():
        return "it is no directory"
    try:
        Policy.open(path)
    except FileNotFoundError as error:
        return str(error) if (path / CARD).exists() else f"{CARD} is missing"
    if not any(path.glob("*.safetensors")):
        return "there are no weights (*.safetensors) in it"
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in CODE_SUFFIXES:
            return f"{file.relative_to(path)} is of a kind that can run code when opened; keep weights as safetensors"
        if file.is_symlink():
            return f"{file.relative_to(path)} is a link; a policy holds its own files"
    return None
