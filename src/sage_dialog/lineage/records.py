"""Run records: one JSON file a run, from its first moment on, whatever becomes of the run."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from sage_dialog.core.atomic_files import atomic_file

RUN = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d\.\d{3}Z")
"""A run's name: the moment it began, which is also the version of everything that it writes."""

_BEGINNING = 300  # bytes of a record's file, in which its outcome stands


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later form of a record may tell more


class Selection(_Part):
    """What of the project was run, in the words of `kedro run`; a list not given is empty."""

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
    """Which process; a process id comes again, with another time of birth or on another machine."""

    host: str
    pid: int
    born: float  # seconds since 1970

    @classmethod
    def here(cls) -> Process:
        """This very process."""
        import psutil

        return cls(host=socket.gethostname(), pid=os.getpid(), born=psutil.Process().create_time())

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None of one on another machine."""
        import psutil

        if self.host != socket.gethostname():
            return None
        try:
            process = psutil.Process(self.pid)
            # The time of birth is reckoned from the machine's start, which moves a little when the clock is set.
            return abs(process.create_time() - self.born) < 2 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class Git(_Part):
    revision: str
    changed: tuple[str, ...]  # files that differ from it, or that it does not know; empty: a clean tree


class File(_Part):
    """A file of raw data. As long as size and time are the same, so is taken to be its content."""

    bytes: int
    modified_ns: int
    sha256: str | None  # None of a file that is not on a local disk


class Read(_Part):
    """An input that the run did not make. One of the three kinds: a version, files, or something made at each load."""

    version: str | None = None
    sha256: str | None = None  # of a version's content
    files: dict[str, File] | None = None  # of raw data
    made: dict[str, Any] | None = None  # of a role or an engine: class, arguments, model; never a key

    @property
    def content(self) -> object:
        """What makes two reads the same; None where it is not known."""
        if self.files is not None:
            return {name: file.sha256 or [file.bytes, file.modified_ns] for name, file in self.files.items()}
        return self.made if self.made is not None else self.sha256


class Written(_Part):
    """An output, whole in the catalog. Where bytes and times are still these, its content is taken to be."""

    version: str | None  # None of raw data, which has no versions
    node: str
    at: str
    bytes: int
    modified_ns: int  # the latest of its files
    sha256: str
    files: dict[str, File] | None = None  # of raw data


class NodeRecord(_Part):
    """A node as the run had it."""

    inputs: tuple[str, ...]  # datasets, no parameters
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]  # such as "self_play"; values stand in the record's own `parameters`
    code: str  # digest over every definition of the project that the node can reach
    started: str | None = None
    ended: str | None = None


class Spent(_Part):
    calls: float = 0
    tokens: float = 0
    money: float = 0


Outcome = Literal["running", "done", "failed", "stopped"]
"""As the run itself last said."""

Fate = Literal["running", "done", "failed", "stopped", "killed", "unknown"]
"""What became of a run: `killed` of one that says it is running and whose process is gone, `unknown` where that process
would be on another machine."""


class RunRecord(_Part):
    """Everything that decides what a run gives, and what it gave."""

    run: str
    started: str  # ISO 8601, UTC, as all times
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
    nodes: dict[str, NodeRecord]
    code: dict[str, str]  # by "module:definition" or data file, a digest
    reads: dict[str, Read]
    writes: dict[str, Written] = {}
    spent: dict[str, Spent] = {}  # by role, "the run" for all together
    answered: dict[str, tuple[str, ...]] = {}  # by role, what servers said of the models that replied

    @property
    def fate(self) -> Fate:
        """What became of it, as far as can be told from this machine."""
        if self.outcome != "running":
            return self.outcome
        alive = self.process.alive
        return "unknown" if alive is None else "running" if alive else "killed"


class NoSuchRunError(ValueError):
    """No record has this name; the message says which there are."""


class RunFolder:
    """The records of a project, `<folder>/<run>.json`, and the names given to runs, `<folder>/tags.json`."""

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder)

    def names(self) -> list[str]:
        """Runs, the latest first; no record is opened."""
        try:
            files = os.listdir(self.path)
        except FileNotFoundError:
            return []
        return sorted(
            (name[:-5] for name in files if name.endswith(".json") and RUN.fullmatch(name[:-5])), reverse=True
        )

    def begin(self, record: RunRecord) -> None:
        """Keep a new record.

        Raises:
            FileExistsError: if another run has this name: two began in one millisecond.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.file(record.run), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        self.keep(record)

    def keep(self, record: RunRecord) -> None:
        """Put a record in the place of its earlier form; killed meanwhile, one of the two is there."""
        with atomic_file(self.file(record.run)) as partial:
            partial.write_text(record.model_dump_json(indent=1) + "\n", "utf-8")

    def read(self, run: str) -> RunRecord:
        """The record of a run, of a name given to one, or of `latest`.

        Raises:
            NoSuchRunError: if there is none, or it cannot be read.
        """
        name = self.resolve(run)
        try:
            return RunRecord.model_validate_json(self.file(name).read_bytes())
        except FileNotFoundError:
            few = ", ".join(self.names()[:5]) or "none yet"
            raise NoSuchRunError(
                f"no run is called {run!r}; the latest: {few}. `kedro sage runs` lists them."
            ) from None
        except (OSError, ValidationError) as error:
            why = str(error).splitlines()[0]
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                why = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
            if self.is_empty(name):
                why = "it was cut off as it began"
            raise NoSuchRunError(f"{self.file(name)} is no readable run record: {why}") from None

    def is_empty(self, run: str) -> bool:
        """Whether a run was killed as its record began, before it read or wrote anything."""
        try:
            return self.file(run).stat().st_size == 0
        except OSError:
            return False

    def find(self, run: str) -> RunRecord | None:
        """As `read`; None where there is none."""
        try:
            return self.read(run)
        except NoSuchRunError:
            return None

    def records(self) -> Iterator[RunRecord]:
        """Every readable record, the latest first, each opened as it is asked for."""
        for name in self.names():
            if record := self.find(name):
                yield record

    def under_way(self) -> list[RunRecord]:
        """The records of runs that are running, or may be on another machine."""
        going = []
        for name in self.names():
            with suppress(OSError), self.file(name).open("rb") as file:  # most have ended, which their beginning tells
                if b'"outcome": "running"' not in file.read(_BEGINNING):
                    continue
            if (record := self.find(name)) and record.fate in ("running", "unknown"):
                going.append(record)
        return going

    def resolve(self, run: str) -> str:
        """A run's own name for what a person calls it: a tag, `latest`, or a beginning that only one has."""
        if RUN.fullmatch(run):
            return run
        if run in (tags := self.tags()):
            return tags[run]
        names = self.names()
        if run == "latest" and names:
            return names[0]
        fitting = [name for name in names if name.startswith(run)]
        if len(fitting) > 1:
            raise NoSuchRunError(f"{run!r} may be {', '.join(fitting[:5])}; write more of it")
        return fitting[0] if fitting else run

    def tags(self) -> dict[str, str]:
        """Runs by the names given to them."""
        try:
            return {str(tag): str(run) for tag, run in json.loads((self.path / "tags.json").read_text("utf-8")).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError) as error:
            raise NoSuchRunError(f"{self.path / 'tags.json'} is no list of tags: {error}; mend or remove it.") from None

    def tag(self, run: str, name: str) -> None:
        """Give a run a name, which it keeps until it is taken away; another run of this name loses it.

        Raises:
            ValueError: if no run could be found by such a name.
            NoSuchRunError: if there is no such run.
        """
        if not re.fullmatch(r"[\w.+-]{1,60}", name) or re.match(r"\d{4}-", name) or name == "latest":
            raise ValueError(
                f"{name!r} cannot be a run's name: letters, digits and any of . + - _, at most 60; neither `latest` "
                "nor the beginning of a date"
            )
        record = self.read(run)
        self._keep_tags(lambda tags: {**tags, name: record.run})

    def untag(self, name: str) -> str:
        """Take a name away again; the run that had it.

        Raises:
            NoSuchRunError: if no run has this name.
        """
        if name not in (tags := self.tags()):
            raise NoSuchRunError(f"no run is tagged {name!r}; there are {', '.join(sorted(tags)) or 'no tags'}.")
        self._keep_tags(lambda tags: {tag: run for tag, run in tags.items() if tag != name})
        return tags[name]

    def _keep_tags(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        with FileLock(self.path / ".tags.lock"), atomic_file(self.path / "tags.json") as partial:
            partial.write_text(json.dumps(change(self.tags()), indent=1, sort_keys=True) + "\n", "utf-8")

    def file(self, run: str) -> Path:
        """Where a run's record lies."""
        return self.path / f"{run}.json"


def now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def moment(run: str) -> datetime:
    """When a run of this name began."""
    return datetime.strptime(run, "%Y-%m-%dT%H.%M.%S.%fZ").replace(tzinfo=UTC)
