"""Run records: what a run read, by which configuration and code, and what it wrote."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict

from sage_dialog.lineage.content import Content, File, changed_files

RUN = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d\.\d{3}Z")
"""The id of a run: its start time, which is also the version of all its outputs."""

FORMAT = 2
"""The form of new records.

Form 1 lacks the arguments of nodes, and its digests of code differ between versions of Python; neither is compared.
"""

_CLOCK_DIFFERENCE_S = 60  # between the clocks of machines that share a folder
_CLOCK_TOLERANCE_S = 2  # a process's start time shifts a little when the clock is set


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # later versions of the format may have more fields


class Selection(_Part):
    """The options of `kedro run`; an option that was not given is empty."""

    pipelines: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    from_nodes: tuple[str, ...] = ()
    to_nodes: tuple[str, ...] = ()
    from_inputs: tuple[str, ...] = ()
    to_outputs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    load_versions: dict[str, str] = {}
    only_missing_outputs: bool = False
    runner: str = "SequentialRunner"


class Process(_Part):
    """A process. Ids are reused, so host and start time belong to its identity."""

    host: str
    pid: int
    born: float  # seconds since 1970

    @classmethod
    def here(cls) -> Process:
        """Return the current process."""
        return cls(host=socket.gethostname(), pid=os.getpid(), born=psutil.Process().create_time())

    @property
    def alive(self) -> bool | None:
        """Whether the process is still running; None for one on another machine."""
        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.born) < _CLOCK_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class Git(_Part):
    revision: str
    changed: tuple[str, ...]  # modified and untracked files; empty for a clean tree


class Hardware(_Part):
    """What the libraries of a run computed with."""

    threads: int  # of torch, as set or by default
    device: str  # the processor, or the GPUs
    driver: str | None = None  # of the GPUs


class InputRecord(_Part):
    """An input that the run did not write: a version, a folder of raw files, or an entry built from its definition."""

    version: str | None = None
    sha256: str | None = None  # of the version
    files: dict[str, File] | None = None  # of raw data, and of a base in a local folder
    definition: dict[str, Any] | None = None  # of roles and engines: class, arguments, model; never a key

    @property
    def content(self) -> object:
        """The value by which two inputs are equal; None where it is unknown."""
        if self.files is not None:
            return {name: file.sha256 or [file.bytes, file.modified_ns] for name, file in self.files.items()}
        return self.definition if self.definition is not None else self.sha256

    def equals(self, other: InputRecord) -> bool:
        """Return whether two known contents are equal."""
        if self.files is not None and other.files is not None:
            return not changed_files(self.files, other.files)
        return self.content == other.content


class OutputRecord(_Part):
    """An output saved by the run. Its content counts as unchanged while bytes and time of change are."""

    version: str | None  # None for raw data
    node: str
    at: str
    bytes: int
    modified_ns: int  # the latest of its files
    sha256: str
    files: dict[str, File] | None = None  # of raw data


class NodeRecord(_Part):
    """A node of the run."""

    inputs: tuple[str, ...]  # datasets only
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]  # such as "self_play"; values are in the record's `parameters`
    arguments: dict[str, str] = {}  # the dataset or parameter of each argument of its function
    code: str  # digest of every definition of the project that the node can reach
    started: str | None = None
    ended: str | None = None


class Spent(_Part):
    calls: float = 0
    tokens: float = 0
    money: float = 0


Outcome = Literal["running", "done", "failed", "stopped"]
"""The outcome as the run itself recorded it."""

Status = Literal["running", "done", "failed", "stopped", "killed", "unknown"]
"""The outcome checked against the process: `killed` if it is gone, `unknown` if it is on another machine."""


class RunRecord(_Part):
    """The inputs, configuration, code and outputs of a run. Times are ISO 8601 in UTC."""

    run: str
    format: int = 1
    started: str
    ended: str | None = None
    outcome: Outcome = "running"
    error: str | None = None
    replay_of: str | None = None
    process: Process
    selection: Selection
    environment: str
    parameters: dict[str, Any]
    git: Git | None  # None outside a git repository
    python: str
    platform: str
    packages: dict[str, str]
    extras: tuple[str, ...] | None = None  # of the project, those installed
    conf_source: str | None = None  # the folder or archive of the configuration; relative paths start at the project
    hardware: Hardware | None = None  # None where nothing was computed with torch, or not in this process
    nodes: dict[str, NodeRecord]
    code: dict[str, str]  # digest by "module:definition" or data file
    reads: dict[str, InputRecord]
    writes: dict[str, OutputRecord] = {}
    spent: dict[str, Spent] = {}  # by role; "the run" for the total
    answered: dict[str, tuple[str, ...]] = {}  # by role, the names that servers gave for the models that replied

    @property
    def status(self) -> Status:
        """The status of the run, as far as it is known on this machine."""
        if self.outcome != "running":
            return self.outcome
        alive = self.process.alive
        return "unknown" if alive is None else "running" if alive else "killed"

    def node_of(self, dataset: str) -> str | None:
        """Return the name of the node that writes a dataset."""
        return next((name for name, node in self.nodes.items() if dataset in node.outputs), None)

    def output_as_input(self, dataset: str) -> InputRecord | None:
        """Return an output of the run as another run reads it; None where it was not written."""
        written = self.writes.get(dataset)
        if written is None:
            return None
        sha256 = None if written.files is not None else written.sha256
        return InputRecord(version=written.version, sha256=sha256, files=written.files)


def version_sha256(
    dataset: str, record: RunRecord | None, state: tuple[int, int] | None, content: Callable[[], Content]
) -> str:
    """Return the digest of a version: the recorded one if the files are unchanged since, else that of its content.

    Args:
        record: of the run that wrote it.
        state: its bytes and time of change; None where that takes reading it.
    """
    written = record.writes.get(dataset) if record else None
    if written and state in (None, (written.bytes, written.modified_ns)):
        return written.sha256
    return content().sha256


def is_in_future(run: str) -> bool:
    """Return whether the id of a run is a time that has not come yet: a clock was ahead when it started."""
    started = datetime.strptime(run, "%Y-%m-%dT%H.%M.%S.%fZ").replace(tzinfo=UTC)
    return (started - datetime.now(UTC)).total_seconds() > _CLOCK_DIFFERENCE_S


def now() -> str:
    """Return the current time as records write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
