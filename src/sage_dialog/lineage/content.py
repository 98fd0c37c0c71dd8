"""What files hold, as a digest: of what a run writes and of what it reads, without reading anything twice for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.lineage.records import File

_SHOWN_AFTER_S = 3.0  # seconds of reading until a bar says how far it is
_PIECE = 1 << 20


class Content(NamedTuple):
    """A version's content."""

    bytes: int
    modified_ns: int  # the latest of its files
    sha256: str


class Digests:
    """sha256 of files outside the project's own records, kept beside these: dumps may be hundreds of GB.

    A file of the same size and time as when it was last read is not read again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self, paths: Mapping[str, Path]) -> dict[str, File]:
        """Local files by a name of the caller's."""
        known = self._known()
        states = {name: (path.stat().st_size, path.stat().st_mtime_ns) for name, path in paths.items()}
        found = {name: known.get(_key(path)) for name, path in paths.items()}
        new = {name for name, state in states.items() if not (kept := found[name]) or tuple(kept[:2]) != state}
        digests = {name: str(kept[2]) for name, kept in found.items() if kept and name not in new}
        with _bar(sum(states[name][0] for name in new)) as step:
            for name in sorted(new):
                digests[name] = _sha256(paths[name], step)
        if new:
            self._keep({_key(paths[name]): [*states[name], digests[name]] for name in new})
        return {
            name: File(bytes=states[name][0], modified_ns=states[name][1], sha256=digests[name])
            for name in sorted(paths)
        }

    def content(self, path: Path) -> Content:
        """As `content_of`, of what may have been read before."""
        return _together(path, self.files(_inside(path)))

    def _known(self) -> dict[str, list[Any]]:
        try:
            return dict(json.loads(self._path.read_text("utf-8")))
        except (OSError, ValueError):
            return {}  # what is lost is read again

    def _keep(self, new: Mapping[str, list[Any]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self._path.with_name(f".{self._path.name}.lock")):
            kept = {path: state for path, state in self._known().items() if Path(path).exists()} | dict(new)
            with atomic_file(self._path) as partial:
                partial.write_text(json.dumps(kept, indent=0, sort_keys=True) + "\n", "utf-8")


def content_of(path: Path) -> Content:
    """What a file or a folder holds: sha256 of the file, or of the names and sha256 of all files of the folder."""
    return _together(path, {name: _file(file) for name, file in _inside(path).items()})


def state_of(path: Path) -> tuple[int, int]:
    """Bytes and the latest time of change in nanoseconds: as long as they stay, so does the content."""
    states = [file.stat() for file in _inside(path).values()]
    return sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)


def of_stream(stream: Any) -> str:
    """sha256 of an open binary file, wherever it lies."""
    digest = hashlib.sha256()
    while piece := stream.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def of_files(files: Mapping[str, File]) -> Content:
    """Of files known one by one; those without a digest count by size and time."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0{file.sha256 or [file.bytes, file.modified_ns]}\n".encode())
    return Content(
        sum(file.bytes for file in files.values()),
        max((file.modified_ns for file in files.values()), default=0),
        digest.hexdigest(),
    )


def _inside(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        return {path.name: path}
    return {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}


def _together(path: Path, files: Mapping[str, File]) -> Content:
    if path.is_dir():
        return of_files(files)
    (file,) = files.values()
    return Content(file.bytes, file.modified_ns, str(file.sha256))


def _file(path: Path) -> File:
    state = path.stat()
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return File(bytes=state.st_size, modified_ns=state.st_mtime_ns, sha256=sha256)


def _sha256(path: Path, step: Any) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            step(len(piece))
    return digest.hexdigest()


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    from tqdm import tqdm

    with tqdm(
        total=total, unit="B", unit_scale=True, delay=_SHOWN_AFTER_S, leave=False, desc="sha256 of this run's inputs"
    ) as bar:
        yield bar.update


def _key(path: Path) -> str:
    return str(path.resolve())
