"""A stage opens tables that later stages wrote in previous runs."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, DatasetError, Version
from kedro.validation import DataValidationError

from sage_dialog.core.tables import from_rows
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.previous_tables import OptionalTable, PreviousTables
from sage_dialog.schemas import MIX_REJECTS


def reject(source: str) -> pd.DataFrame:
    return from_rows([{"source": source, "record": "r", "reason": "why"}], MIX_REJECTS)


@pytest.fixture
def open_table(tmp_path: Path) -> Any:
    for version in ("2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"):
        path = str(tmp_path / "trajectories_2.parquet")
        AtomicParquet(filepath=path, version=Version(None, version)).save(reject(version))
    path = str(tmp_path / "other.parquet")
    AtomicParquet(filepath=path, version=Version(None, "2026-01-01T00.00.00.000Z")).save(pd.DataFrame({"n": [1]}))
    entry = {
        "type": "sage_dialog.datasets.previous_tables.PreviousTables",
        "folder": f"{tmp_path}/",
        "schema": "MIX_REJECTS",
    }
    return DataCatalog.from_config({"earlier": entry}).load("earlier")


def test_a_table_is_opened_by_name_and_version(open_table: Any) -> None:
    assert open_table("trajectories_2")["source"].tolist() == ["2026-01-02T00.00.00.000Z"]
    assert open_table("trajectories_2:2026-01-01T00.00.00.000Z")["source"].tolist() == ["2026-01-01T00.00.00.000Z"]


@pytest.mark.parametrize(
    ("name", "error"),
    [("trajectories_3", "There is no trajectories_3 in "), ("trajectories_2:2025", "There is no version 2025 of ")],
)
def test_a_missing_table_is_named(open_table: Any, name: str, error: str) -> None:
    with pytest.raises(DatasetError, match=error):
        open_table(name)


def test_a_table_of_another_schema_is_refused(open_table: Any) -> None:
    with pytest.raises(DataValidationError, match="Not a table of schema MIX_REJECTS"):
        open_table("other")


def test_nothing_is_read_before_a_table_is_opened_and_nothing_is_written(tmp_path: Path) -> None:
    dataset = PreviousTables(folder=str(tmp_path / "nowhere"), schema="MIX_REJECTS")
    assert dataset.exists() and callable(dataset.load())
    with pytest.raises(DatasetError, match="only read"):
        dataset.save(reject("x"))  # type: ignore[arg-type]


def test_an_optional_table_is_empty_until_it_is_written(tmp_path: Path) -> None:
    place = str(tmp_path / "mix_rejects.parquet")
    optional = OptionalTable(filepath=place, schema="MIX_REJECTS")
    assert list(optional.load().columns) == MIX_REJECTS.names and optional.load().empty and optional.exists()
    assert optional.describe_input().files == {}
    row = dict.fromkeys(MIX_REJECTS.names, "x")
    for version, row["reason"] in (("2026-01-01T00.00.00.000Z", "old"), ("2026-01-02T00.00.00.000Z", "new")):
        AtomicParquet(filepath=place, version=Version(None, version)).save(from_rows([row], MIX_REJECTS))
    assert optional.load()["reason"].tolist() == ["new"]
    ((name, path),) = optional.describe_input().files.items()
    assert name == "mix_rejects.parquet" and "2026-01-02" in str(path), "a name without the version"
    with pytest.raises(DatasetError):
        optional.save(None)
    AtomicParquet(filepath=place, version=Version(None, "2026-01-03T00.00.00.000Z")).save(pd.DataFrame({"other": [1]}))
    with pytest.raises(DataValidationError, match="MIX_REJECTS"):
        optional.load()
