"""Finished shards of dialogues, kept in a scratch folder so that a killed run plays only what it had not.

The folder is named by a fingerprint of everything that decides the dialogues, the code included: other
inputs never meet these shards. They stay until someone empties the scratch folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import sage_dialog

if TYPE_CHECKING:
    import pyarrow as pa

CANDIDATES_FILE = "candidates.parquet"
TRAJECTORIES_FILE = "trajectories.parquet"


def fingerprint(inputs: Mapping[str, object]) -> str:
    """A name for the inputs (anything JSON can write) under this very code."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    package = Path(sage_dialog.__file__).parent
    for source in sorted(package.rglob("*")):  # code, and the word lists and templates beside it
        if source.is_file() and source.suffix != ".pyc":
            digest.update(str(source.relative_to(package)).encode() + source.read_bytes())
    return digest.hexdigest()[:20]


class Shards:
    """The shards of one round of dialogues, each a directory that appears only when whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def finished(self, number: int) -> bool:
        return self._path(number).is_dir()

    def keep(self, number: int, candidates: pa.Table, trajectories: pa.Table) -> None:
        import pyarrow.parquet as pq

        partial = self._folder / f".{self._path(number).name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pq.write_table(candidates, partial / CANDIDATES_FILE)
        pq.write_table(trajectories, partial / TRAJECTORIES_FILE)
        partial.rename(self._path(number))

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
