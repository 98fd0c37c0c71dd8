"""Finished shards of dialogues in a scratch folder, so that an interrupted run only plays the missing ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from filelock import FileLock

from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.tables import DataFrame

CANDIDATES_FILE = "candidates.parquet"
TRAJECTORIES_FILE = "trajectories.parquet"


class Shards:
    """The shards of one round of dialogues, each a folder that only appears when complete.

    Args:
        folder: named by a fingerprint of everything that decides the dialogues, so that other inputs never share
            shards. Shards remain until the scratch folder is emptied.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_finished(self, number: int) -> bool:
        return self._path(number).is_dir()

    def save(self, number: int, candidates: DataFrame, trajectories: DataFrame) -> None:
        """Write a shard. If another process was faster, its shard remains; it is the same."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / "lock"):  # neither of two processes removes the other's partial folder
            if self.is_finished(number):
                return
            with atomic_folder(self._path(number)) as partial:
                candidates.to_parquet(partial / CANDIDATES_FILE, index=False)
                trajectories.to_parquet(partial / TRAJECTORIES_FILE, index=False)

    def load(self) -> tuple[DataFrame, DataFrame]:
        """Return all candidates and all trajectories, in the order of the shards."""
        folders = sorted(self._folder.glob("shard-*"))
        candidates, trajectories = (
            pd.concat(
                [pd.read_parquet(folder / name, dtype_backend="pyarrow") for folder in folders], ignore_index=True
            )
            for name in (CANDIDATES_FILE, TRAJECTORIES_FILE)
        )
        return candidates, trajectories

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}"
