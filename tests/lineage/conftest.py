"""Records of runs that nobody ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_dialog.lineage.records import NodeRecord, Process, Read, RunFolder, RunRecord, Selection, Written

GONE = Process(host="elsewhere", pid=1, born=0.0)


def run_name(day: int) -> str:
    return f"2026-03-{day:02}T12.00.00.000Z"


def wrote(run: str, sha256: str, node: str = "n", size: int = 10) -> Written:
    return Written(version=run, node=node, at="2026-03-01T12:00:00+00:00", bytes=size, modified_ns=1, sha256=sha256)


def a_record(
    day: int,
    nodes: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None,
    reads: dict[str, Read] | None = None,
    contents: dict[str, str] | None = None,
    **more: Any,
) -> RunRecord:
    """A run of one day of March: nodes by name with inputs and outputs, and the sha256 of what it wrote."""
    run = run_name(day)
    nodes = nodes or {}
    by = {output: name for name, (_, outputs) in nodes.items() for output in outputs}
    given: dict[str, Any] = {
        "outcome": "done", "started": f"2026-03-{day:02}T12:00:01+00:00", "ended": f"2026-03-{day:02}T12:01:06+00:00",
        "process": GONE, "selection": Selection(pipelines=("demo",)), "environment": "local", "parameters": {"seed": 0},
        "git": None, "python": "3.11", "platform": "here", "packages": {"numpy": "2"}, "code": {},
    }  # fmt: skip
    return RunRecord(
        run=run,
        nodes={
            name: NodeRecord(inputs=inputs, outputs=outputs, parameters=(), code="c")
            for name, (inputs, outputs) in nodes.items()
        },
        reads=reads or {},
        writes={name: wrote(run, sha256, by[name]) for name, sha256 in (contents or {}).items()},
        **{**given, **more},
    )


@pytest.fixture
def runs(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "data/runs")


@pytest.fixture
def keep(runs: RunFolder) -> Callable[..., RunRecord]:
    """Puts a record of `a_record`'s arguments among the runs."""

    def put(day: int, *arguments: Any, **named: Any) -> RunRecord:
        record = a_record(day, *arguments, **named)
        runs.begin(record)
        return record

    return put


@pytest.fixture
def make() -> Any:
    """The functions above, for tests that put records together themselves."""

    class Make:
        record, name, wrote = staticmethod(a_record), staticmethod(run_name), staticmethod(wrote)

    return Make
