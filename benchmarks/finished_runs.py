"""What benchmarks read from the data folder of a finished run, and the results that they keep of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import DataFrame, Table, from_arrow
from sage_dialog.lineage.run_folder import RunFolder

LONG_TEXT = 200  # characters; a longer parameter is kept as its hash


def latest_version(data: Path, name: str) -> Path | None:
    """Return the folder of the latest version of a table or policy, or None."""
    entries = [*data.glob(f"0*/{name}.parquet"), *data.glob(f"06_models/{name}")]
    versions = (path for entry in entries for path in entry.iterdir() if not path.name.startswith("."))
    return max(versions, default=None)


def latest_rows(data: Path, name: str) -> list[dict[str, Any]]:
    """Return the rows of the latest version of a table."""
    return _table(data, name).to_pylist()


def latest_table(data: Path, name: str) -> DataFrame:
    """Return the latest version of a table."""
    return from_arrow(_table(data, name))


def latest_policy(data: Path, name: str) -> Policy | None:
    """Return the latest version of a policy, or None."""
    version = latest_version(data, name)
    return version and Policy.open(version / name)


def latest_parameters(data: Path, name: str) -> dict[str, Any]:
    """Return the parameters, by dotted key, of the run that wrote the latest version of a table."""
    version = latest_version(data, name)
    return by_key(RunFolder(data / "runs").load(version.name).parameters) if version else {}


def by_key(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested parameters by dotted key; long texts by their sha256."""
    return dict(_flat(parameters, ""))


def below(parameters: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the parameters with these names, and those below them."""
    prefixes = tuple(f"{name}." for name in names)
    return {key: value for key, value in parameters.items() if f"{key}.".startswith(prefixes)}


def differences(kept: Mapping[str, Any], present: Mapping[str, Any]) -> Iterator[str]:
    """Yield the kept parameters that have another value now; a key that is new since then changed nothing."""
    for key, value in kept.items():
        if key not in present or present[key] != value:
            yield f"{key} was {value}, is {present.get(key, 'gone')}"


def save_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as unfinished:
        unfinished.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def _table(data: Path, name: str) -> Table:
    import pyarrow.parquet as pq

    version = latest_version(data, name)
    if version is None:
        raise SystemExit(f"{data} holds no {name}: name the data folder of a finished run")
    return pq.read_table(version / f"{name}.parquet")


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, str) and len(value) > LONG_TEXT:
        yield path, f"sha256 {hashlib.sha256(value.encode()).hexdigest()[:16]}"
    else:
        yield path, list(value) if isinstance(value, tuple) else value
