"""Dataset types that save atomically, with data for each, and a process that saves one version after another."""

import itertools
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from kedro.io import AbstractVersionedDataset, Version
from matplotlib.figure import Figure

from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.datasets.figure import AtomicFigure
from sage_dialog.datasets.files import AtomicJSON, AtomicPage, AtomicText
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.policy import PolicyDirectory


class Kind(NamedTuple):
    """A dataset type, the data that are saved, and what a load must give."""

    type: type[AbstractVersionedDataset[Any, Any]]
    name: str
    data: Callable[[Path], Any]
    loaded: Callable[[Any], Any]

    def at(self, folder: Path, version: Version) -> AbstractVersionedDataset[Any, Any]:
        return self.type(filepath=str(folder / self.name), version=version)  # type: ignore[call-arg]


def table(_: Path) -> pd.DataFrame:
    return pd.DataFrame({"n": np.random.default_rng(0).integers(0, 1 << 60, 100_000)}).convert_dtypes(
        dtype_backend="pyarrow"
    )


def figure(_: Path) -> Figure:
    drawn = Figure(figsize=(8, 8), dpi=100)
    drawn.figimage(np.random.default_rng(0).random((600, 600)))
    return drawn


def text(_: Path) -> str:
    return "a line of a report …\n" * 50_000


def rows(_: Path) -> list[dict[str, Any]]:
    return [{"n": n, "topics": ["x"]} for n in range(5_000)]


def policy(folder: Path) -> Policy:
    path = folder / "trained"
    if not path.exists():
        path.mkdir(parents=True)
        (path / "adapter_model.safetensors").write_bytes(np.random.default_rng(0).bytes(3_000_000))
        Policy.write_card(path, PolicyCard("sage_1", "adapter", True, "sage_0", "abc"))
    return Policy.open(path)


KINDS = {
    "table": Kind(AtomicParquet, "dialogues.parquet", table, lambda frame: frame.to_dict("list")),
    "figure": Kind(AtomicFigure, "figure.png", figure, bytes),
    "text": Kind(AtomicText, "report.html", text, str),
    "page": Kind(AtomicPage, "report.html", text, str),
    "json": Kind(AtomicJSON, "rows.json", rows, list),
    "policy": Kind(PolicyDirectory, "sage_1", policy, Policy.revision),
}


def save_versions(name: str, folder: Path, prefix: str, first: Connection) -> None:
    """Save one version after another until the process is killed; send the seconds of the first save."""
    kind = KINDS[name]
    data = kind.data(folder)
    for number in itertools.count():
        start = time.perf_counter()
        kind.at(folder, Version(None, f"{prefix}-{number:06d}")).save(data)
        if number == 0:
            first.send(time.perf_counter() - start)
