"""Finished parts are kept: a killed run continues and ends with the same bytes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from filelock import FileLock

from sage_dialog.config import RedditRules
from sage_dialog.core.tables import to_arrow
from sage_dialog.corpora.reddit import read_dialogues, run
from sage_dialog.microworld import reddit as microworld
from sage_dialog.microworld.world import load_world

RULES = RedditRules.from_base(min_turns=3)
DUMPS, BUCKETS = 6, 4
BUCKET_COMMENTS = 100  # of which the months have enough for so many buckets

# Reads the months and kills itself in its n-th part, when the part is computed and not yet saved.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from sage_dialog.corpora.reddit import read_dialogues, run
from sage_dialog.config import RedditRules

folder, scratch, last, workers, comments, rules = sys.argv[1:]
parts = itertools.count(1)

def kill_in_the_last(part):
    if part == int(last):
        os.kill(os.getpid(), signal.SIGKILL)

def extracted(*arguments, extract=run.extract):
    part = next(parts)
    yield from extract(*arguments)
    kill_in_the_last(part)

def assembled(*arguments, assemble=run.assemble):
    part, result = next(parts), assemble(*arguments)
    kill_in_the_last(part)
    return result

run.extract, run.assemble = extracted, assembled
files = {path.name: path for path in Path(folder).iterdir()}
rules = RedditRules.model_validate_json(rules)
read_dialogues(files, rules, scratch=Path(scratch), workers=int(workers), bucket_comments=int(comments))
"""


@pytest.fixture(scope="module")
def months(tmp_path_factory):
    folder = tmp_path_factory.mktemp("months")
    for name, content in microworld.months(load_world(), 60, seed=3).items():
        (folder / name).write_bytes(content)
    return folder


def files_of(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def written(tables) -> list[bytes]:
    """Return the tables as bytes, schema and chunks included."""
    contents = []
    for table in map(to_arrow, tables):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        contents.append(sink.getvalue().to_pybytes())
    return contents


@pytest.fixture
def read(months, monkeypatch):
    """`read(scratch)` returns the tables as bytes, and the numbers of dumps and buckets that were processed."""

    def go(scratch, folder=months, rules=RULES, **how):
        done = Counter()

        def counted(name):
            function = getattr(run, name)
            return lambda *arguments: (done.update([name]), function(*arguments))[1]

        with monkeypatch.context() as patch:
            for name in ("extract", "assemble"):
                patch.setattr(run, name, counted(name))
            tables = read_dialogues(
                files_of(folder), rules, scratch=scratch, **({"workers": 1, "bucket_comments": BUCKET_COMMENTS} | how)
            )
        return written(tables), (done["extract"], done["assemble"])

    return go


def start(months, scratch, last, workers, bucket_comments) -> subprocess.Popen:
    arguments = [months, scratch, last, workers, bucket_comments, RULES.model_dump_json()]
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 4, 6, 7, 9, 10])
def test_a_killed_run_continues_and_ends_with_the_same_bytes(months, read, tmp_path, last):
    whole, done = read(tmp_path / "whole")
    assert done == (DUMPS, BUCKETS)
    killed = start(months, tmp_path / "scratch", last, workers=1, bucket_comments=BUCKET_COMMENTS)
    _, errors = killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL, errors.decode()
    rerun, done = read(tmp_path / "scratch")
    assert rerun == whole
    # Only the part in progress is repeated.
    assert sum(done) == DUMPS + BUCKETS - (last - 1)
    assert read(tmp_path / "scratch") == (whole, (0, 0))


def test_killed_processes_leave_their_finished_parts(months, read, tmp_path):
    whole, (_, buckets) = read(tmp_path / "whole", bucket_comments=15)
    assert buckets > 20
    scratch = tmp_path / "scratch"
    process = start(months, scratch, last=0, workers=2, bucket_comments=15)

    def finished():
        return [*scratch.glob("reddit/extracted/[!.]*")]

    until = time.monotonic() + 240
    while not finished() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, errors.decode()
    rerun, done = read(scratch, bucket_comments=15)
    assert rerun == whole
    assert 0 < sum(done) < DUMPS + buckets


def test_rules_on_paths_leave_extracted_months_as_they_are(read, tmp_path):
    read(tmp_path)
    assert read(tmp_path, rules=RedditRules.from_base(min_turns=4))[1] == (0, BUCKETS)
    assert read(tmp_path, rules=RedditRules.from_base(min_body_words=3))[1] == (DUMPS, BUCKETS)
    assert read(tmp_path)[1] == (0, 0)


def test_a_month_that_is_added_is_all_that_is_extracted(months, read, tmp_path):
    first = tmp_path / "months"
    first.mkdir()
    for name, path in files_of(months).items():
        if "2012-03" not in name:
            (first / name).symlink_to(path)
    whole, _ = read(tmp_path / "whole", folder=months)
    _, done = read(tmp_path / "scratch", folder=first)
    assert done[0] == 4
    for name, path in files_of(months).items():
        if "2012-03" in name:
            (first / name).symlink_to(path)
    assert read(tmp_path / "scratch", folder=first) == (whole, (2, BUCKETS))


def test_a_changed_dump_is_extracted_a_second_time(months, read, tmp_path):
    folder = tmp_path / "months"
    folder.mkdir()
    for name, path in files_of(months).items():
        (folder / name).write_bytes(path.read_bytes())
    cut = folder / "RC_2012-02.bz2"
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    before, _ = read(tmp_path / "scratch", folder=folder)
    cut.write_bytes(content)
    after, done = read(tmp_path / "scratch", folder=folder)
    assert done == (1, BUCKETS)
    assert after != before
    assert after == read(tmp_path / "whole", folder=months)[0]


def test_no_unfinished_part_remains(read, tmp_path):
    read(tmp_path)
    assert not list(tmp_path.rglob(".*"))


HANGING = """
import sys
import test_interrupted
from sage_dialog.corpora.reddit.processes import run_tasks

list(run_tasks(test_interrupted.hang, [(sys.argv[1],), (sys.argv[1],)], 2, lambda *_: None))
"""


def hang(folder, _):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, sent):
    main = subprocess.Popen(
        [sys.executable, "-c", HANGING, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 240
        while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        processes = [psutil.Process(worker) for worker in workers]
        assert len(processes) == 2
        main.send_signal(sent)
        main.wait(120)
        assert psutil.wait_procs(processes, timeout=120)[1] == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGKILL)


def test_a_second_reader_of_the_same_scratch_folder_is_refused(read, tmp_path):
    whole, _ = read(tmp_path)
    with FileLock(tmp_path / "reddit.lock"), pytest.raises(ValueError, match=f"another process .* {tmp_path}/reddit; "):
        read(tmp_path)
    assert read(tmp_path) == (whole, (0, 0))


@pytest.mark.parametrize("name", ["batches.arrow", "tally.json", "dialogues.parquet", "removed.json"])
def test_a_part_that_cannot_be_read_is_named(read, tmp_path, name):
    whole, _ = read(tmp_path)
    path = sorted(tmp_path.rglob(name))[0]
    path.write_bytes(path.read_bytes()[:-9])
    changed = RedditRules.from_base(min_turns=4) if name == "batches.arrow" else RULES  # else it is not read
    with pytest.raises(ValueError, match=rf"{path} cannot be read: .* Remove the folder {path.parent} and run"):
        read(tmp_path, rules=changed)
    shutil.rmtree(path.parent)
    assert read(tmp_path)[0] == whole
