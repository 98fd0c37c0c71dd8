"""Policies as versioned folders: weights, tokenizer and card, and no file that can run code."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from kedro.io import AbstractVersionedDataset, DatasetError, Version

from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.policies import CARD, Policy, TrainedPolicy
from sage_dialog.datasets.atomic import AtomicMixin

# Formats that execute code when they are opened; weights are kept as safetensors.
CODE_SUFFIXES = frozenset({".bin", ".ckpt", ".h5", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".py"})
_MAX_HEADER = 100_000_000  # bytes of JSON that safetensors allow


class PolicyDirectory(AtomicMixin, AbstractVersionedDataset[Policy, Policy]):
    """A base model or an adapter at `<filepath>/<version>/<name>/`.

    A save copies the folder of the policy; a policy just trained then leaves the scratch folder. A load opens the card
    and reads no weights.
    """

    kind = "policy"

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        if "://" in filepath:
            raise DatasetError(f"{filepath} is no local folder, and policies are kept in local folders only.")
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def read(self, path: PurePath) -> Policy:
        if fault := policy_fault(Path(path)):
            raise ValueError(f"{fault}.")
        return Policy.open(Path(path))

    def save(self, data: Policy) -> None:
        if fault := policy_fault(data.path):
            raise DatasetError(f"{data.path} cannot be saved as a policy: {fault}.")
        super().save(data)
        if isinstance(data, TrainedPolicy):
            data.forget()

    def write(self, data: Policy, path: Path) -> None:
        shutil.copytree(data.path, path, dirs_exist_ok=True)

    def atomic_target(self, target: Path) -> AbstractContextManager[Path]:
        return atomic_folder(target)

    def fault(self, path: str) -> str | None:
        return policy_fault(Path(path)) or weights_fault(Path(path))

    def _exists(self) -> bool:
        return Path(self._get_load_path()).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}


def policy_fault(path: Path) -> str | None:
    """Return why a folder is no policy; None where it is one."""
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


def weights_fault(folder: Path) -> str | None:
    """Return which safetensors file is shorter than its header says; None where all are complete."""
    for path in sorted(folder.rglob("*.safetensors")):
        if not (size := path.stat().st_size):
            return f"{path.name} is cut off: it is empty"
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > _MAX_HEADER:
                continue  # not a safetensors file; opening the policy reports that
            try:
                header = json.loads(file.read(length))
                end = max(
                    (part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"), default=0
                )
            except (ValueError, TypeError, KeyError, AttributeError):
                end = size
        if size < 8 + length + end:
            return f"{path.name} is cut off: {size:,} of {8 + length + end:,} bytes"
    return None
