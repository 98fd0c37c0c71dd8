"""Digests of files, kept so that no file is read twice, and atomic writing of text files."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from filelock import FileLock
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

RUN_LINE = "<!-- run -->"
"""The start of the line in which an HTML page names the run that wrote it. Comparisons leave the line out."""

_BAR_AFTER_S = 3.0
_BUFFER = 1 << 20


class File(BaseModel):
    """A raw data file. Its content counts as unchanged while size and time of change are."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bytes: int
    modified_ns: int
    sha256: str | None  # None of a file on an object store


class Content(NamedTuple):
    """The content of a version: a file or a folder."""

    bytes: int
    modified_ns: int  # the latest of its files
    sha256: str


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: a killed process leaves the previous content or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class DigestCache:
    """sha256 of files, cached in a JSON file by path, size and time of change: raw data may be hundreds of GB."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self, paths: Mapping[str, Path]) -> dict[str, File]:
        """Return the size, time and digest of local files, by the same names."""
        cached = self._load()
        found: dict[str, list[Any]] = {}
        new: dict[str, Path] = {}
        for name, path in sorted(paths.items()):
            state, known = path.stat(), cached.get(str(path.resolve()))
            found[name] = [state.st_size, state.st_mtime_ns, known[2] if known else None]
            if found[name] != known:
                new[name] = path
        with tqdm(
            total=sum(found[name][0] for name in new), unit="B", unit_scale=True, delay=_BAR_AFTER_S, leave=False,
            desc="sha256 of this run's inputs",
        ) as bar:  # fmt: skip
            for name, path in new.items():
                found[name][2] = _sha256(path, bar.update)
        if new:
            self._save({str(path.resolve()): found[name] for name, path in new.items()})
        return {name: File(bytes=size, modified_ns=time, sha256=sha256) for name, (size, time, sha256) in found.items()}

    def content(self, path: Path) -> Content:
        """Return the content of a file or folder; equal to `content_of`."""
        return _combine(path, self.files(_files_in(path)))

    def _load(self) -> dict[str, list[Any]]:
        try:
            return dict(json.loads(self._path.read_text("utf-8")))
        except (OSError, ValueError):
            return {}

    def _save(self, new: Mapping[str, list[Any]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_name(f".{self._path.name}.lock")):
            kept = {path: state for path, state in self._load().items() if Path(path).exists()} | dict(new)
            write_text(self._path, json.dumps(kept, indent=0, sort_keys=True) + "\n")


def content_of(path: Path) -> Content:
    """Return the content of a file, or of a folder by the names and digests of all its files."""
    files = {}
    for name, file in _files_in(path).items():
        state = file.stat()
        files[name] = File(bytes=state.st_size, modified_ns=state.st_mtime_ns, sha256=_sha256(file))
    return _combine(path, files)


def state_of(path: Path) -> tuple[int, int]:
    """Return the bytes and the latest time of change (ns) of a file or folder."""
    states = [file.stat() for file in _files_in(path).values()]
    return sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)


def of_stream(stream: IO[bytes], step: Callable[[int], object] | None = None) -> str:
    """Return the sha256 of an open binary file; `step` is called with the size of each part read."""
    digest = hashlib.sha256()
    while part := stream.read(_BUFFER):
        digest.update(part)
        if step:
            step(len(part))
    return digest.hexdigest()


def of_file(stream: IO[bytes], name: str, step: Callable[[int], object] | None = None) -> str:
    """Return the sha256 of an open binary file; that of an HTML page is without the line that names its run."""
    if not name.endswith(".html"):
        return of_stream(stream, step)
    lines = stream.read().splitlines(keepends=True)
    return of_stream(io.BytesIO(b"".join(line for line in lines if not line.startswith(RUN_LINE.encode()))), step)


def of_files(files: Mapping[str, File]) -> Content:
    """Return the content of a set of files; a file without a digest counts by size and time of change."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0{file.sha256 or [file.bytes, file.modified_ns]}\n".encode())
    return Content(
        sum(file.bytes for file in files.values()),
        max((file.modified_ns for file in files.values()), default=0),
        digest.hexdigest(),
    )


def changed_files(before: Mapping[str, File] | None, after: Mapping[str, File] | None) -> list[str]:
    """Return the names of files that differ by digest, or where one has none, by size or time of change."""
    before, after = before or {}, after or {}
    return sorted(name for name in {*before, *after} if not _is_same_file(before.get(name), after.get(name)))


def _is_same_file(before: File | None, after: File | None) -> bool:
    if before is None or after is None:
        return False
    if before.sha256 is not None and after.sha256 is not None:
        return before.sha256 == after.sha256
    return (before.bytes, before.modified_ns) == (after.bytes, after.modified_ns)


def _files_in(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        return {path.name: path}
    return {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}


def _combine(path: Path, files: Mapping[str, File]) -> Content:
    if path.is_dir():
        return of_files(files)
    (file,) = files.values()
    return Content(file.bytes, file.modified_ns, str(file.sha256))


def _sha256(path: Path, step: Callable[[int], object] | None = None) -> str:
    with path.open("rb") as stream:
        return of_file(stream, path.name, step)
