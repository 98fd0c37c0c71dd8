"""A version appears only when it is complete, also when the process is killed or fails while it saves."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DatasetError, Version
from saved_versions import KINDS, Kind, save_versions

from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.datasets.parquet import AtomicParquet

KILLS, MOST_KILLS = 4, 20
LATEST = Version(None, None)
FORKS = multiprocessing.get_context("forkserver")  # imports once for all processes


@pytest.fixture(scope="module", autouse=True)
def _fork_server() -> None:
    """Start the process that others are forked from; it is given `sys.path` by the environment alone."""
    FORKS.set_forkserver_preload(["saved_versions"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


def kill_at_random_moments(name: str, folder: Path) -> None:
    """Start a process that saves one version after another and SIGKILL it within the next few, several times over.

    At least one version is cut off: a kill may fall between two saves.
    """
    moments, kind = random.Random(7), KINDS[name]
    for attempt in range(MOST_KILLS):
        if attempt >= KILLS and interrupted_versions(kind, folder):
            break
        first, sender = FORKS.Pipe()
        process = FORKS.Process(target=save_versions, args=(name, folder, f"v{attempt:02d}", sender))
        process.start()
        seconds_a_save = first.recv()
        time.sleep(moments.uniform(0.0, 3 * seconds_a_save))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL


def interrupted_versions(kind: Kind, folder: Path) -> set[str]:
    versions = kind.at(folder, LATEST).list_versions(full_path=False)
    return {path.name for path in (folder / kind.name).iterdir()} - set(versions)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_killed_saves_leave_only_complete_versions(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    kill_at_random_moments(name, tmp_path)
    versions = kind.at(tmp_path, LATEST).list_versions(full_path=False)
    assert versions
    assert interrupted_versions(kind, tmp_path), "no kill fell into a save; nothing was tested"
    kind.at(tmp_path, Version(None, "expected")).save(kind.data(tmp_path))
    expected = kind.loaded(kind.at(tmp_path, Version("expected", None)).load())
    for version in versions:
        assert kind.at(tmp_path, Version(version, None)).fault(str(tmp_path / kind.name / version / kind.name)) is None
        assert kind.loaded(kind.at(tmp_path, Version(version, None)).load()) == expected


@pytest.mark.parametrize("name", KINDS)
def test_a_save_that_fails_leaves_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    dataset, data = KINDS[name].at(tmp_path, LATEST), KINDS[name].data(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full_disk)
        with pytest.raises(Exception, match="No space left"):
            dataset.save(data)
    assert not dataset.exists()
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("name", KINDS)
def test_equal_data_make_equal_bytes(tmp_path: Path, name: str) -> None:
    kind, saved = KINDS[name], []
    for version in ("1", "2"):
        kind.at(tmp_path, Version(None, version)).save(kind.data(tmp_path))
        path = tmp_path / kind.name / version / kind.name
        files = [path] if path.is_file() else sorted(path.iterdir())
        saved.append({file.name: file.read_bytes() for file in files})
    assert saved[0] == saved[1]


def test_latest_skips_a_version_that_was_cut_off(tmp_path: Path) -> None:
    filepath = tmp_path / "n.parquet"
    AtomicParquet(filepath=str(filepath), version=Version(None, "2026-01-01T00.00.00.000Z")).save(
        pd.DataFrame({"n": [1]})
    )
    cut_off = filepath / "2026-01-02T00.00.00.000Z"
    cut_off.mkdir()
    (cut_off / ".n.parquet.partial").write_bytes(b"PAR1")
    assert AtomicParquet(filepath=str(filepath), version=LATEST).load()["n"].tolist() == [1]


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"policy"}))
def test_a_save_that_fails_leaves_no_object_on_an_object_store(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, data: Any, path: Path) -> None:
        path.write_bytes(b"PAR1 and then")
        raise MemoryError("no more")

    kind = KINDS[name]
    dataset = kind.type(filepath=f"memory://bucket/failing/{kind.name}", version=Version(None, "1"))
    monkeypatch.setattr(kind.type, "write", failing)
    with pytest.raises(DatasetError, match="no more"):
        dataset.save(kind.data(Path()))
    assert not dataset.exists()


def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "reddit"
    with atomic_folder(target) as partial:
        (partial / "RC_2015-01").write_text("first")
    move = os.replace

    def refused(source: Path, to: Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError(28, "No space left on device")
        move(source, to)

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", refused)
        with pytest.raises(OSError, match="No space left"), atomic_folder(target) as partial:
            (partial / "RC_2015-01").write_text("second")
    assert (target / "RC_2015-01").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


BESIDE = """
import os, sys, time
from pathlib import Path
from sage_dialog.core.atomic_files import atomic_folder

with atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "batches.arrow").write_text("half")
    print(partial, flush=True)
    time.sleep(300)
"""


def test_a_process_does_not_touch_what_another_one_is_writing(tmp_path: Path) -> None:
    target = tmp_path / "part"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen([sys.executable, "-c", BESIDE, target], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        theirs = Path(other.stdout.readline().strip())
        with atomic_folder(target) as partial:
            assert partial != theirs
            (partial / "batches.arrow").write_text("whole")
        assert (theirs / "batches.arrow").read_text() == "half"
    finally:
        other.kill()
        other.wait()
    with atomic_folder(target) as partial:
        assert not theirs.exists(), "what a killed process leaves is removed"
        (partial / "batches.arrow").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["part", "batches.arrow"]
    assert (target / "batches.arrow").read_text() == "whole"
