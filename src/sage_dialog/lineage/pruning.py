"""Which old versions, records and unfinished work to remove, and their removal without partial leftovers."""

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
from sage_dialog.lineage.records import RUN, InputRecord, RunRecord
from sage_dialog.lineage.run_folder import NoSuchRunError, RunFolder

Reference = tuple[str, str]  # a dataset and a version of it
_FINGERPRINT = re.compile(r".*[0-9a-f]{20}")
_REMOVED = re.compile(r"\..*\.gone")
_DAY_S = 24 * 3600.0
_ORPHAN_AGE_S = _DAY_S  # no save takes longer


class VersionFolder(NamedTuple):
    """The versions of a dataset, `<folder>/<version>/<name of folder>`.

    Attributes:
        fault: returns why the version at a path is incomplete, None where it is not.
    """

    folder: Path
    fault: Callable[[str], str | None]


class Removal(NamedTuple):
    """A file or folder to remove."""

    path: Path
    bytes: int
    dataset: str
    version: str


@dataclass(frozen=True)
class PrunePlan:
    """What to remove.

    Attributes:
        leftovers: of killed removals and saves.
        replays: the outputs of all replays of a run.
        running: running runs. Their versions stay; while there are any, so do unfinished work and replays.
    """

    versions: tuple[Removal, ...]
    records: tuple[Removal, ...]
    leftovers: tuple[Removal, ...]
    work: tuple[Removal, ...]
    replays: tuple[Removal, ...]
    running: tuple[str, ...]

    def __iter__(self) -> Iterator[Removal]:
        yield from (*self.versions, *self.leftovers, *self.work, *self.replays)
        yield from self.records  # last, so that a record never goes before its versions

    @property
    def bytes(self) -> int:
        return sum(removal.bytes for removal in self)


def plan_prune(
    runs: RunFolder, datasets: Mapping[str, VersionFolder], keep: int, scratch: Path, work_days: float, replays: Path
) -> PrunePlan:
    """Return what to remove.

    Kept are the last `keep` complete versions of each dataset, the inputs and outputs of the last `keep` runs, tagged
    runs and running runs, and everything that any of these versions was made from.

    Args:
        keep: number of versions of each dataset, and of runs; at least 1.
        scratch: the folder of unfinished work.
        work_days: days after which untouched work is removed.
        replays: the folder of replayed outputs, by the run that they repeat.

    Raises:
        NoSuchRunError: if a record that decides what is kept cannot be read.
    """
    running = runs.running()
    complete = {name: _complete_versions(place) for name, place in datasets.items()}
    kept_runs = {*runs.names()[:keep], *runs.tags().values(), *(record.run for record in running)}
    provenance = Provenance(runs)
    kept = {(name, version) for name, versions in complete.items() for version in versions[:keep]}
    kept |= {each for run in kept_runs if (record := provenance.record(run)) for each in referenced_versions(record)}
    kept |= {(name, version) for name, versions in complete.items() for version in kept_runs.intersection(versions)}
    ancestors = provenance.ancestors((name, InputRecord(version=version)) for name, version in kept)
    kept = {(each.name, each.content.version) for each in ancestors if each.content.version}
    kept_records = kept_runs | {version for _, version in kept}
    _require_readable(kept_records, runs, provenance)
    replayed = {path.name: path for path in _subfolders(replays) if RUN.fullmatch(path.name)}
    repeated = {record.replay_of for run in kept_runs if (record := provenance.record(run))}
    kept_replays = {run for run in replayed if running or run in repeated}
    busy = {record.run for record in running}
    versions, leftovers = [], [_removal(path) for path in _subfolders(replays) if _REMOVED.fullmatch(path.name)]
    for name, place in datasets.items():
        for path in _subfolders(place.folder):
            is_saved = (path / place.folder.name).exists()
            is_version = RUN.fullmatch(path.name) and path.name not in busy
            if _REMOVED.fullmatch(path.name) or (is_version and not is_saved and _age_s(path) > _ORPHAN_AGE_S):
                leftovers.append(_removal(path))
            elif is_version and is_saved and (name, path.name) not in kept:
                versions.append(_removal(path, name, path.name))
    records = tuple(_removable_records(runs, kept_records, kept_replays))
    records += tuple(_unused_code(runs, {removal.path for removal in records}))
    return PrunePlan(
        versions=tuple(sorted(versions, key=lambda removal: (removal.version, removal.dataset))),
        records=records,
        leftovers=tuple(leftovers),
        work=() if running else tuple(old_work(scratch, work_days)),
        replays=tuple(_removal(path) for run, path in replayed.items() if run not in kept_replays),
        running=tuple(sorted(busy)),
    )


def remove(plan: PrunePlan, runs: RunFolder) -> Iterator[Removal]:
    """Remove what a plan lists, and yield each removal when it is done.

    A version is renamed to a hidden name first: after a kill it is complete or gone, and the next plan has the rest.
    What a run that has started since refers to is kept.
    """
    newest, running, needed = "", list[RunRecord](), set[Reference]()
    for removal in plan:
        if (latest := next(iter(runs.names()), "")) != newest:
            newest, running = latest, runs.running()
            needed = {each for record in running for each in referenced_versions(record)}
        if (removal.dataset, removal.version) in needed or (running and removal in (*plan.work, *plan.replays)):
            continue
        if removal.path.is_dir():
            hidden = removal.path
            if not _REMOVED.fullmatch(hidden.name):
                hidden = removal.path.with_name(f".{removal.path.name}.gone")
                os.replace(removal.path, hidden)
            shutil.rmtree(hidden)
        else:
            removal.path.unlink(missing_ok=True)
        yield removal


def referenced_versions(record: RunRecord) -> set[Reference]:
    """Return the versions that a run has read, has written, or will write."""
    references = {(name, run_input.version) for name, run_input in record.reads.items() if run_input.version}
    for run_input in record.reads.values():
        tables = (run_input.definition or {}).get("tables", {})
        references |= {(name.partition(":")[0], version) for name, version in tables.items()}
    return references | {(name, record.run) for node in record.nodes.values() for name in node.outputs}


def old_work(scratch: Path, days: float) -> Iterator[Removal]:
    """Yield unfinished work that was not touched for some days and is not locked by a process."""
    for path in _work_folders(scratch):
        if _age_s(path) > days * _DAY_S and not _is_locked(path):
            yield _removal(path)


def _removal(path: Path, dataset: str = "", version: str = "") -> Removal:
    return Removal(path, _size(path), dataset, version)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(_size(Path(entry.path)) for entry in os.scandir(path) if not entry.is_symlink())
    return path.stat().st_size


def _complete_versions(place: VersionFolder) -> list[str]:
    """Return the complete versions of a dataset, the latest first."""
    files = {path.name: path / place.folder.name for path in _subfolders(place.folder) if RUN.fullmatch(path.name)}
    return [version for version, file in files.items() if file.exists() and place.fault(str(file)) is None]


def _subfolders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir()), reverse=True) if folder.is_dir() else []


def _require_readable(needed: Iterable[str], runs: RunFolder, provenance: Provenance) -> None:
    """Raise NoSuchRunError for an unreadable record: it may need versions that would be removed."""
    for run in sorted(needed):
        if provenance.record(run) is None and runs.file(run).exists() and not runs.is_empty(run):
            try:
                runs.load(run)
            except NoSuchRunError as error:
                raise NoSuchRunError(
                    f"{error}. Nothing was removed, because this run may need any version. Repair or remove its record."
                ) from None


def _removable_records(runs: RunFolder, kept: Collection[str], kept_replays: Collection[str]) -> Iterator[Removal]:
    """Yield records without remaining versions. The record of the run that last wrote raw data is kept."""
    raw: set[str] = set()
    for run in runs.names():
        if (record := runs.find(run)) and record.replay_of:
            removable = run not in kept and record.replay_of not in kept_replays
        else:
            written = {name for name, each in record.writes.items() if each.version is None} if record else set()
            removable = run not in kept and written <= raw
            raw |= written
        if removable:
            yield _removal(runs.file(run))
            if runs.lines_file(run).exists():
                yield _removal(runs.lines_file(run))


def _unused_code(runs: RunFolder, removed: Collection[Path]) -> Iterator[Removal]:
    """Yield files with digests of definitions that no remaining record refers to, and no run has used lately."""
    used = {
        runs.code_file(name) for run in runs.names() if runs.file(run) not in removed and (name := runs.code_name(run))
    }
    for path in sorted((runs.path / "code").glob("*.json")):
        if path not in used and _age_s(path) > _ORPHAN_AGE_S:
            yield _removal(path)


def _work_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders of single pieces of work: named by a fingerprint, or with files in them."""
    for path in _subfolders(folder):
        if _FINGERPRINT.fullmatch(path.name) or any(entry.is_file() for entry in os.scandir(path)):
            yield path
        else:
            yield from _work_folders(path)


def _age_s(path: Path) -> float:
    """Return the seconds since the last change in a folder."""
    return time.time() - max((each.stat().st_mtime for each in (path, *path.rglob("*"))), default=0.0)


def _is_locked(path: Path) -> bool:
    lock = path / "lock"
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
