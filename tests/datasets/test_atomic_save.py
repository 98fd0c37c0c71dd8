"""A version appears only when it is whole, also when the process is killed while it saves."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from kedro.io import Version

from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.policy import PolicyDirectory

SRC = Path(__file__).parents[2] / "src"
KILLS = 8

SAVE_TABLES = """
import itertools, sys, time
import numpy as np, pyarrow as pa
from kedro.io import Version
from sage_dialog.datasets.parquet import AtomicParquet
table = pa.table({"n": np.random.default_rng(0).integers(0, 1 << 60, 400_000)})
for n in itertools.count():
    start = time.perf_counter()
    AtomicParquet(filepath=sys.argv[1], version=Version(None, f"{sys.argv[2]}-{n:06d}")).save(table)
    if n == 0:
        print(time.perf_counter() - start, flush=True)
"""

SAVE_POLICIES = """
import itertools, sys, time
from kedro.io import Version
from sage_dialog.datasets.policy import PolicyDirectory
from sage_dialog.core.policies import Policy
policy = Policy.open(sys.argv[3])
for n in itertools.count():
    start = time.perf_counter()
    PolicyDirectory(filepath=sys.argv[1], version=Version(None, f"{sys.argv[2]}-{n:06d}")).save(policy)
    if n == 0:
        print(time.perf_counter() - start, flush=True)
"""


def kill_at_random_moments(code: str, *arguments: str) -> None:
    """Start a process that saves one version after another and SIGKILL it within the next few, several times over."""
    moments = random.Random(7)
    for attempt in range(KILLS):
        first, *others = arguments
        command = [sys.executable, "-c", code, first, f"v{attempt:02d}", *others]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SRC)}, cwd=SRC.parent
        )
        assert process.stdout is not None
        seconds_a_save = float(process.stdout.readline())
        time.sleep(moments.uniform(0.0, 3 * seconds_a_save))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()


def small_policy(path: Path, weights: bytes = b"x" * 4096) -> Policy:
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(weights)
    (path / "adapter_config.json").write_text("{}")
    return Policy.write_card(path, PolicyCard("sage_1", "adapter", True, "sage_0", "abc"))


def test_killed_table_saves_leave_only_whole_versions(tmp_path: Path) -> None:
    filepath = tmp_path / "dialogues.parquet"
    kill_at_random_moments(SAVE_TABLES, str(filepath))
    versions = AtomicParquet(filepath=str(filepath), version=Version(None, None)).list_versions(full_path=False)
    interrupted = {path.name for path in filepath.iterdir()} - set(versions)
    assert versions
    assert interrupted, "no kill fell into a save; nothing was tested"
    for version in versions:
        table = AtomicParquet(filepath=str(filepath), version=Version(version, None)).load()
        assert table.num_rows == 400_000


def test_killed_policy_saves_leave_only_whole_versions(tmp_path: Path) -> None:
    policy = small_policy(tmp_path / "source", os.urandom(3_000_000))
    filepath = tmp_path / "sage_1"
    kill_at_random_moments(SAVE_POLICIES, str(filepath), str(policy.path))
    versions = PolicyDirectory(filepath=str(filepath), version=Version(None, None)).list_versions(full_path=False)
    interrupted = {path.name for path in filepath.iterdir()} - set(versions)
    assert versions
    assert interrupted, "no kill fell into a save; nothing was tested"
    for version in versions:
        loaded = PolicyDirectory(filepath=str(filepath), version=Version(version, None)).load()
        assert loaded.revision() == policy.revision()


def test_latest_passes_over_a_version_that_was_cut_off(tmp_path: Path) -> None:
    filepath = tmp_path / "n.parquet"
    AtomicParquet(filepath=str(filepath), version=Version(None, "2026-01-01T00.00.00.000Z")).save(pa.table({"n": [1]}))
    cut_off = filepath / "2026-01-02T00.00.00.000Z"
    cut_off.mkdir()
    (cut_off / ".n.parquet.partial").write_bytes(b"PAR1")
    assert AtomicParquet(filepath=str(filepath), version=Version(None, None)).load()["n"].to_pylist() == [1]


def test_a_save_that_fails_leaves_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    dataset = AtomicParquet(filepath=str(tmp_path / "n.parquet"), version=Version(None, None))
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full_disk)
        with pytest.raises(Exception, match="No space left"):
            dataset.save(pa.table({"n": [1]}))
    assert not dataset.exists()
    assert not list(tmp_path.rglob("*.partial"))


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
