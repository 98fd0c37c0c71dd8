"""What may go of old versions, records and unfinished work, and how it goes so that a kill leaves nothing half."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from sage_dialog.lineage.mixing import Provenance
from sage_dialog.lineage.records import RUN, NoSuchRunError, RunFolder, RunRecord

Reference = tuple[str, str]  # a dataset, a version of it
_FINGERPRINT = re.compile(r".*[0-9a-f]{20}")
_GONE = re.compile(r"\..*\.gone")
_ORPHANED_S = 24 * 3600.0  # a save takes less


class Versions(NamedTuple):
    """Where a dataset's versions lie: `<folder>/<version>/<name of folder>`; `fault` tells why one is not whole."""

    folder: Path
    fault: Callable[[str], str | None]


class Going(NamedTuple):
    """A file or folder to be removed."""

    path: Path
    bytes: int
    dataset: str = ""
    version: str = ""


@dataclass(frozen=True)
class Plan:
    """What goes. Shown first; `remove` carries it out."""

    versions: tuple[Going, ...]
    records: tuple[Going, ...]
    leftovers: tuple[Going, ...]
    """Of removals and saves that were killed."""
    work: tuple[Going, ...]
    replays: tuple[Going, ...]
    """What replays of a run have made, all together."""
    under_way: tuple[str, ...]
    """Runs of which nothing is touched; while there are any, neither is unfinished work, nor what replays made."""

    def __iter__(self) -> Iterator[Going]:
        yield from (*self.versions, *self.leftovers, *self.work, *self.replays)
        yield from self.records  # they outlive their versions

    @property
    def bytes(self) -> int:
        return sum(going.bytes for going in self)


def plan(
    runs: RunFolder, datasets: Mapping[str, Versions], keep: int, scratch: Path, work_days: float, replays: Path
) -> Plan:
    """What may go.

    What stays is the last `keep` whole versions of each dataset, whatever the last `keep` runs, tagged runs and runs
    under way have read or written, and everything that any of these versions was made from.

    Args:
        keep: versions of each dataset, and runs; at least 1.
        scratch: the folder of unfinished work.
        work_days: days for which such work must not have been touched, to go.
        replays: the folder of what replays made, by the run that they repeat.

    Raises:
        NoSuchRunError: if a record cannot be read that would tell what is needed.
    """
    under_way = runs.under_way()
    found = {name: _versions(place) for name, place in datasets.items()}
    chosen = [*runs.names()[:keep], *runs.tags().values(), *(record.run for record in under_way)]
    provenance = Provenance(runs)
    kept: set[Reference] = {(name, version) for name, whole in found.items() for version in whole[:keep]}
    kept |= {each for run in chosen if (record := provenance.record(run)) for each in referred(record)}
    kept |= {(name, version) for name, whole in found.items() for version in {*whole} & {*chosen}}
    kept |= set(_behind(kept, provenance))
    _demand({*chosen, *(version for _, version in kept)}, runs, provenance)
    areas = {path.name: path for path in _folders(replays) if RUN.fullmatch(path.name)}
    repeated = areas if under_way else {record.replay_of for run in chosen if (record := provenance.record(run))}
    busy = {record.run for record in under_way}
    versions = []
    leftovers = [Going(path, size(path)) for path in _folders(replays) if _GONE.fullmatch(path.name)]
    for name, place in datasets.items():
        for path in _folders(place.folder):
            whole = (path / place.folder.name).exists()
            if _GONE.fullmatch(path.name) or (RUN.fullmatch(path.name) and not whole and _is_orphan(path, busy)):
                leftovers.append(Going(path, size(path)))
            elif RUN.fullmatch(path.name) and whole and path.name not in busy and (name, path.name) not in kept:
                versions.append(Going(path, size(path), name, path.name))
    return Plan(
        tuple(sorted(versions, key=lambda going: (going.version, going.dataset))),
        tuple(_records(runs, {*chosen, *(version for _, version in kept)}, areas.keys() & repeated)),
        tuple(leftovers),
        () if under_way else tuple(old_work(scratch, work_days)),
        tuple(Going(path, size(path)) for run, path in areas.items() if run not in repeated),
        tuple(sorted(busy)),
    )


def remove(chosen: Plan, runs: RunFolder) -> Iterator[Going]:
    """Removes what a plan holds, and gives each as it has gone.

    A version is renamed to a hidden name first: killed meanwhile, it is either there whole or gone, and the next time
    takes what is left. What a run that has begun since refers to stays.
    """
    newest, under_way, needed = "", list[RunRecord](), set[Reference]()
    for going in chosen:
        if (latest := next(iter(runs.names()), "")) != newest:
            newest, under_way = latest, runs.under_way()
            needed = {each for record in under_way for each in referred(record)}
        if (going.dataset, going.version) in needed or (under_way and going in (*chosen.work, *chosen.replays)):
            continue
        if going.path.is_dir():
            hidden = going.path
            if not _GONE.fullmatch(hidden.name):
                hidden = going.path.with_name(f".{going.path.name}.gone")
                os.replace(going.path, hidden)
            shutil.rmtree(hidden)
        else:
            going.path.unlink(missing_ok=True)
        yield going


def referred(record: RunRecord) -> set[Reference]:
    """The versions that a run has read, written, or will write."""
    read = {(name, each.version) for name, each in record.reads.items() if each.version}
    for each in record.reads.values():
        tables = (each.made or {}).get("tables", {})
        read |= {(name.partition(":")[0], version) for name, version in tables.items()}
    return read | {(name, record.run) for node in record.nodes.values() for name in node.outputs}


def old_work(scratch: Path, days: float) -> Iterator[Going]:
    """Unfinished work in the scratch folder that nothing has touched for so many days, and that no process holds."""
    for path in _pieces(scratch):
        if time.time() - _touched(path) > days * 86400 and not _is_held(path):
            yield Going(path, size(path))


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_dir():
        return sum(size(Path(entry.path)) for entry in os.scandir(path) if not entry.is_symlink())
    return path.stat().st_size


def _versions(place: Versions) -> list[str]:
    """Those that are whole, the latest first."""
    return [
        path.name
        for path in _folders(place.folder)
        if RUN.fullmatch(path.name) and (file := path / place.folder.name).exists() and place.fault(str(file)) is None
    ]


def _folders(place: Path) -> list[Path]:
    return sorted((path for path in place.iterdir() if path.is_dir()), reverse=True) if place.is_dir() else []


def _behind(kept: Iterable[Reference], provenance: Provenance) -> Iterator[Reference]:
    waiting, met = list(kept), set(kept)
    while waiting:
        for name, read in provenance.inputs(*waiting.pop()):
            if read.version and (each := (name, read.version)) not in met:
                met.add(each)
                waiting.append(each)
                yield each


def _demand(needed: Iterable[str], runs: RunFolder, provenance: Provenance) -> None:
    """What an unreadable record needs cannot be told, and might go."""
    for run in sorted(needed):
        if provenance.record(run) is None and runs.file(run).exists() and not runs.is_empty(run):
            try:
                runs.read(run)
            except NoSuchRunError as error:
                raise NoSuchRunError(
                    f"{error}. What that run needs cannot be told, so nothing goes; mend or remove its record."
                ) from None


def _records(runs: RunFolder, kept: set[str], repeated: Collection[str]) -> Iterator[Going]:
    """Records that tell of nothing that is left: not those of replays of the runs in `repeated`.

    Who last wrote raw data, which has no versions, is still told.
    """
    raw: set[str] = set()
    for run in runs.names():
        record = runs.find(run)
        if record and record.replay_of:  # it writes elsewhere
            if run not in kept and record.replay_of not in repeated:
                yield Going(runs.file(run), size(runs.file(run)))
            continue
        written = {name for name, each in record.writes.items() if each.version is None} if record else set()
        if run not in kept and written <= raw:
            yield Going(runs.file(run), size(runs.file(run)))
        raw |= written


def _is_orphan(path: Path, busy: set[str]) -> bool:
    return path.name not in busy and time.time() - _touched(path) > _ORPHANED_S


def _pieces(folder: Path) -> Iterator[Path]:
    """Folders of one piece of work each: named by a fingerprint, or holding files."""
    for path in _folders(folder):
        if _FINGERPRINT.fullmatch(path.name) or any(entry.is_file() for entry in os.scandir(path)):
            yield path
        else:
            yield from _pieces(path)


def _touched(path: Path) -> float:
    return max((each.stat().st_mtime for each in (path, *path.rglob("*"))), default=0.0)


def _is_held(path: Path) -> bool:
    """Whether a process works here."""
    lock = path / "lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
