"""The folder of run records: a JSON file a run, written at its start and end, and in between lines that are added."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ValidationError

from sage_dialog.lineage.content import write_text
from sage_dialog.lineage.records import RUN, RunRecord

_CODE_DIGITS = 16  # of the sha256
_HEADER_BYTES = 300  # the beginning of a record's file, which includes its outcome


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

    def remove(self, run: str) -> None:
        """Remove the record of a run."""
        for path in (self.lines_file(run), self.file(run)):
            path.unlink(missing_ok=True)

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
        yield from map(json.loads, text.split("\n")[:-1])  # what follows the last line break was cut off

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
