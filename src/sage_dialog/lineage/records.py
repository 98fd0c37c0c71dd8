"""Run records: a JSON file a run, written at its start and end, and in between lines that are added to it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from sage_dialog.lineage.content import Content, File, changed_files, write_text

RUN = re.compile(r"\d{4}-\d\d-\d\dT\d\d\.\d\d\.\d\d\.\d{3}Z")
"""The id of a run: its start time, which is also the version of all its outputs."""

FORMAT = 2
"""The form of new records.

Form 1 lacks the arguments of nodes, and its digests of code differ between versions of Python; neither is compared.
"""

_CODE_DIGITS = 16  # of the sha256
_HEADER_BYTES = 300  # the beginning of a record's file, which includes its outcome
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


class NoSuchRunError(ValueError):
    """There is no such run, or its record cannot be read."""


class RunFolder:
    """The records of a project, and the tags of runs, `<folder>/tags.json`.

    A record is `<folder>/<run>.json`. While the run goes on, `<run>.jsonl` has a line for each change since its start.
    Its end writes the whole record and removes the lines. A line that a kill has cut off does not count. The digests
    of definitions, the same in most runs, are in `<folder>/code/<digest>.json`, which records share.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder)

    def names(self) -> list[str]:
        """Return the ids of all runs, the latest first, without opening a record."""
        files = self.path.glob("*.json")
        return sorted((file.stem for file in files if RUN.fullmatch(file.stem)), reverse=True)

    def begin(self, record: RunRecord) -> None:
        """Write a new record. Raises FileExistsError if a run with this id exists."""
        self.path.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.file(record.run), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        self.save(record)

    def save(self, record: RunRecord) -> None:
        """Replace a record atomically."""
        fields = record.model_dump(mode="json", exclude_defaults=True, exclude={"code"})
        fields |= {"code": self._save_code(record.code)}
        first = {"run": record.run, "outcome": record.outcome}
        lines = [f"{json.dumps(name)}: {_compact(value)}" for name, value in (first | fields).items()]
        write_text(self.file(record.run), "{\n" + ",\n".join(lines) + "\n}\n")
        self.lines_file(record.run).unlink(missing_ok=True)

    def append(self, run: str, **changes: Mapping[str, Any]) -> None:
        """Add entries to fields of the record of a running run, such as `writes`, synced to the disk.

        Entries of `nodes` may have some fields only, such as the time of the end.
        """
        with self.lines_file(run).open("a", encoding="utf-8") as file:
            file.write(_compact(changes) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def load(self, run: str) -> RunRecord:
        """Return the record of a run, by its id, a unique beginning of it, a tag, or `latest`.

        Raises:
            NoSuchRunError: if there is none, or it cannot be read.
        """
        name = self.resolve(run)
        try:
            return RunRecord.model_validate(self._read(name))
        except FileNotFoundError:
            latest = ", ".join(self.names()[:5]) or "none yet"
            raise NoSuchRunError(f"No run is called {run!r}. The latest runs: {latest}.") from None
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
            if self.is_empty(name):
                reason = "it is empty; the run was killed as it started"
            raise NoSuchRunError(f"{self.file(name)} is not a readable run record: {reason}") from None

    def _read(self, run: str) -> Any:
        """Return the fields of a record with the lines added to it."""
        record = json.loads(self.file(run).read_bytes())
        if not isinstance(record, dict):
            return record
        if isinstance(code := record.get("code"), str):
            record["code"] = self._load_code(code)
        for line in self._lines(run) if record.get("outcome") == "running" else ():
            for name, entries in line.items():
                known = record.setdefault(name, {})
                for key, entry in entries.items():
                    known[key] = {**known.get(key, {}), **entry} if name == "nodes" else entry
        return record

    def _lines(self, run: str) -> Iterator[dict[str, Any]]:
        try:
            text = self.lines_file(run).read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)

    def _save_code(self, code: Mapping[str, str]) -> str:
        """Write the digests of definitions unless they are there, and return the name of their file."""
        name = hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()[:_CODE_DIGITS]
        path = self.code_file(name)
        if path.exists():
            path.touch()  # a prune removes only files that were not used lately
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(code, indent=0, sort_keys=True) + "\n")
        return name

    def _load_code(self, name: str) -> dict[str, str]:
        try:
            return dict(json.loads(self.code_file(name).read_text("utf-8")))
        except (OSError, ValueError):  # names of changed definitions are unknown then, a change is not
            return {}

    def is_empty(self, run: str) -> bool:
        """Return whether a run was killed while its record was created, before it read or wrote anything."""
        try:
            return self.file(run).stat().st_size == 0
        except OSError:
            return False

    def find(self, run: str) -> RunRecord | None:
        """Return the record of a run as `load` does; None where there is none."""
        try:
            return self.load(run)
        except NoSuchRunError:
            return None

    def running(self) -> list[RunRecord]:
        """Return the records of runs that are running, or may be on another machine."""
        found = []
        for name in self.names():
            with suppress(OSError), self.file(name).open("rb") as file:  # most runs have ended: no need to parse those
                if b'"outcome": "running"' in file.read(_HEADER_BYTES):
                    found.append(self.find(name))
        return [record for record in found if record and record.status in ("running", "unknown")]

    def resolve(self, run: str) -> str:
        """Return the id of a run for an id, a tag, `latest`, or a unique beginning of an id.

        Raises:
            NoSuchRunError: if several ids begin so.
        """
        if RUN.fullmatch(run):
            return run
        if run in (tags := self.tags()):
            return tags[run]
        names = self.names()
        if run == "latest" and names:
            return names[0]
        matches = [name for name in names if name.startswith(run)]
        if len(matches) > 1:
            raise NoSuchRunError(f"{run!r} is ambiguous: it may be {', '.join(matches[:5])}. Write more of the id.")
        return matches[0] if matches else run

    def tags(self) -> dict[str, str]:
        """Return the id of the run of each tag."""
        try:
            return {str(tag): str(run) for tag, run in json.loads((self.path / "tags.json").read_text("utf-8")).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError) as error:
            raise NoSuchRunError(
                f"{self.path / 'tags.json'} is not a table of tags: {error}. Repair or remove it."
            ) from None

    def tag(self, run: str, name: str) -> None:
        """Give a run a tag; a run that had the tag before loses it.

        Raises:
            ValueError: if the tag is not valid.
            NoSuchRunError: if there is no such run.
        """
        if not re.fullmatch(r"[\w.+-]{1,60}", name) or re.match(r"\d{4}-", name) or name == "latest":
            raise ValueError(
                f"{name!r} cannot be a tag. A tag has at most 60 letters, digits and . + - _; it is not `latest` and "
                "does not begin like a date."
            )
        record = self.load(run)
        self._update_tags(lambda tags: {**tags, name: record.run})

    def untag(self, name: str) -> str:
        """Remove a tag and return the id of the run that had it. Raises NoSuchRunError if no run has this tag."""
        if name not in (tags := self.tags()):
            raise NoSuchRunError(f"No run has the tag {name!r}. The tags: {', '.join(sorted(tags)) or 'no tags'}.")
        self._update_tags(lambda tags: {tag: run for tag, run in tags.items() if tag != name})
        return tags[name]

    def _update_tags(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        with FileLock(self.path / ".tags.lock"):
            write_text(self.path / "tags.json", json.dumps(change(self.tags()), indent=1, sort_keys=True) + "\n")

    def file(self, run: str) -> Path:
        """Return the path of a run's record."""
        return self.path / f"{run}.json"

    def lines_file(self, run: str) -> Path:
        """Return the path of the lines that a running run adds to its record."""
        return self.path / f"{run}.jsonl"

    def code_file(self, name: str) -> Path:
        """Return the path of a file with digests of definitions."""
        return self.path / "code" / f"{name}.json"

    def code_name(self, run: str) -> str | None:
        """Return the name of the file with the digests of definitions of a run; None where there is none."""
        try:
            record = json.loads(self.file(run).read_bytes())
        except (OSError, ValueError):
            return None
        code = record.get("code") if isinstance(record, dict) else None
        return code if isinstance(code, str) else None


def _compact(value: Any) -> str:
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":"))


def _plain(part: BaseModel) -> dict[str, Any]:
    return part.model_dump(mode="json", exclude_defaults=True)


def is_in_future(run: str) -> bool:
    """Return whether the id of a run is a time that has not come yet: a clock was ahead when it started."""
    started = datetime.strptime(run, "%Y-%m-%dT%H.%M.%S.%fZ").replace(tzinfo=UTC)
    return (started - datetime.now(UTC)).total_seconds() > _CLOCK_DIFFERENCE_S


def now() -> str:
    """Return the current time as records write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
