"""Finished shards of dialogues, kept in a scratch folder so that a killed run plays only what it had not.

The folder is named by a fingerprint of everything that decides the dialogues, the code included: other
inputs never meet these shards. They stay until someone empties the scratch folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sage_dialog.core.atomic_files import atomic_folder

if TYPE_CHECKING:
    import pyarrow as pa

CANDIDATES_FILE = "candidates.parquet"
TRAJECTORIES_FILE = "trajectories.parquet"


class Shards:
    """The shards of one round of dialogues, each a directory that appears only when whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def finished(self, number: int) -> bool:
        return self._path(number).is_dir()

    def keep(self, number: int, candidates: pa.Table, trajectories: pa.Table) -> None:
        """Write a shard; where another process was faster, its shard, which is the same, stays."""
        import pyarrow.parquet as pq
        from filelock import FileLock

        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / "lock"):  # of two processes neither removes what the other is writing
            if self.finished(number):
                return
            with atomic_folder(self._path(number)) as partial:
                pq.write_table(candidates, partial / CANDIDATES_FILE)
                pq.write_table(trajectories, partial / TRAJECTORIES_FILE)

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """All candidates and all trajectories, shard after shard."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = sorted(self._folder.glob("shard-*"))
        return (
            pa.concat_tables([pq.read_table(shard / CANDIDATES_FILE) for shard in found]).combine_chunks(),
            pa.concat_tables([pq.read_table(shard / TRAJECTORIES_FILE) for shard in found]).combine_chunks(),
        )

    def _path(self, number: int) -> Path:
        return self._folder / f"shard-{number:05d}"
