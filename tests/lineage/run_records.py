"""Synthetic run records, and fixtures that store them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_dialog.lineage.records import InputRecord, NodeRecord, OutputRecord, Process, RunRecord, Selection
from sage_dialog.lineage.run_folder import RunFolder

ELSEWHERE = Process(host="elsewhere", pid=1, born=0.0)


def run_name(day: int) -> str:
    return f"2026-03-{day:02}T12.00.00.000Z"


def output_record(run: str, sha256: str, node: str = "n", size: int = 10) -> OutputRecord:
    return OutputRecord(
        version=run, node=node, at="2026-03-01T12:00:00+00:00", bytes=size, modified_ns=1, sha256=sha256
    )


def make_record(
    day: int,
    nodes: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] | None = None,
    reads: dict[str, InputRecord] | None = None,
    contents: dict[str, str] | None = None,
    **more: Any,
) -> RunRecord:
    """Return the record of a run on a day of March: inputs and outputs by node, and the sha256 of its outputs."""
    run = run_name(day)
    nodes = nodes or {}
    node_of = {output: name for name, (_, outputs) in nodes.items() for output in outputs}
    given: dict[str, Any] = {
        "outcome": "done", "started": f"2026-03-{day:02}T12:00:01+00:00", "ended": f"2026-03-{day:02}T12:01:06+00:00",
        "process": ELSEWHERE, "selection": Selection(pipelines=("demo",)), "environment": "local",
        "parameters": {"seed": 0}, "git": None, "python": "3.11", "platform": "here", "packages": {"numpy": "2"},
        "code": {},
    }  # fmt: skip
    return RunRecord(
        run=run,
        nodes={
            name: NodeRecord(inputs=inputs, outputs=outputs, parameters=(), code="c")
            for name, (inputs, outputs) in nodes.items()
        },
        reads=reads or {},
        writes={name: output_record(run, sha256, node_of[name]) for name, sha256 in (contents or {}).items()},
        **{**given, **more},
    )


@pytest.fixture
def runs(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "data/runs")


@pytest.fixture
def keep(runs: RunFolder) -> Callable[..., RunRecord]:
    """Store a record of `make_record`'s arguments."""

    def store(day: int, *arguments: Any, **named: Any) -> RunRecord:
        record = make_record(day, *arguments, **named)
        runs.begin(record)
        return record

    return store
