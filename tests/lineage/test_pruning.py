"""Pruning keeps what runs need and removes the rest completely, also after a kill."""

import os
import time
from pathlib import Path

import pytest
from filelock import FileLock
from run_records import output_record, run_name

from sage_dialog.lineage import pruning
from sage_dialog.lineage.pruning import VersionFolder
from sage_dialog.lineage.records import InputRecord, Process
from sage_dialog.lineage.run_folder import NoSuchRunError


@pytest.fixture
def disk(tmp_path: Path):
    """Save versions of datasets; content that begins with `!` is incomplete."""

    class Disk:
        scratch, replays = tmp_path / "data/scratch", tmp_path / "data/replays"

        def __init__(self) -> None:
            self.datasets: dict[str, VersionFolder] = {}

        def put(self, name: str, *days: int, content: str = "0123456789") -> None:
            folder = tmp_path / "data" / name
            for day in days:
                file = folder / run_name(day) / name
                file.parent.mkdir(parents=True)
                file.write_text(content)
            self.datasets[name] = VersionFolder(
                folder, lambda path: "cut" if Path(path).read_text().startswith("!") else None
            )

        def plan(self, runs, keep: int = 1, days: float = 7):
            return pruning.plan_prune(runs, self.datasets, keep, self.scratch, days, self.replays)

        def left(self, name: str) -> list[int]:
            return sorted(int(path.name[8:10]) for path in (tmp_path / "data" / name).glob("2*"))

    return Disk()


def going(plan) -> set[tuple[str, int]]:
    return {(each.dataset, int(each.version[8:10])) for each in plan.versions}


def test_the_last_versions_are_kept_and_the_others_removed(runs, disk):
    disk.put("table", 1, 2, 3, 4)
    disk.put("other", 2)
    plan = disk.plan(runs, keep=2)
    assert going(plan) == {("table", 1), ("table", 2)} and plan.bytes == 20
    assert len(list(pruning.remove(plan, runs))) == 2
    assert disk.left("table") == [3, 4] and disk.left("other") == [2]
    assert not any(disk.plan(runs, keep=2))


def test_the_ancestors_of_kept_versions_and_runs_are_kept(runs, keep, disk):
    keep(1, {"w": ((), ("world",)), "a": (("world",), ("dialogues",))}, contents={"world": "w", "dialogues": "d"})
    keep(2, {"w": ((), ("world",))}, contents={"world": "w2"})
    keep(3, {"s": (("dialogues",), ("sage_1",))}, {"dialogues": InputRecord(version=run_name(1))}, {"sage_1": "s"})
    keep(4, {"w": ((), ("world",)), "a": (("world",), ("dialogues",))}, contents={"world": "w4", "dialogues": "d4"})
    disk.put("world", 1, 2, 4)
    disk.put("dialogues", 1, 4)
    disk.put("sage_1", 3)
    plan = disk.plan(runs)
    assert going(plan) == {("world", 2)}  # sage_1 of 3 was made from dialogues of 1, these from world of 1
    assert [each.path.stem[8:10] for each in plan.records] == ["02"]
    list(pruning.remove(plan, runs))
    assert [name[8:10] for name in runs.names()] == ["04", "03", "01"]


def test_tables_of_previous_runs_in_a_mix_are_kept_with_its_run(runs, keep, disk):
    earlier = InputRecord(definition={"folder": "f", "tables": {"trajectories_2": run_name(1)}})
    keep(4, {"s": (("earlier",), ("sage_1",))}, {"earlier": earlier}, {"sage_1": "s"})
    disk.put("trajectories_2", 1, 2, 3)
    assert going(disk.plan(runs)) == {("trajectories_2", 2)}


def test_a_tagged_run_is_kept(runs, keep, disk):
    for day in (1, 2, 3):
        keep(day, {"n": ((), ("table",))}, contents={"table": str(day)})
    disk.put("table", 1, 2, 3)
    runs.tag(run_name(1), "paper")
    plan = disk.plan(runs)
    assert going(plan) == {("table", 2)} and [each.path.stem[8:10] for each in plan.records] == ["02"]


def test_nothing_of_a_running_run_is_removed(runs, keep, disk):
    keep(1, {"n": ((), ("table",))}, contents={"table": "1"})
    keep(2, {"n": (("table",), ("other",))}, {"table": InputRecord(version=run_name(1))}, outcome="running", ended=None,
         process=Process.here())  # fmt: skip
    keep(3, {"n": ((), ("table", "other"))}, contents={"table": "3", "other": "3"})
    disk.put("table", 1, 3)
    disk.put("other", 2, 3)
    piece = disk.scratch / "search/sage_1/0123456789abcdef0123"
    piece.mkdir(parents=True)
    os.utime(piece, (0, 0))
    plan = disk.plan(runs)
    assert not any(plan) and plan.running == (run_name(2),)


def test_the_inputs_of_a_run_that_started_since_are_kept(runs, keep, disk):
    disk.put("table", 1, 2, 3)
    piece = disk.scratch / "search/sage_1/0123456789abcdef0123"
    piece.mkdir(parents=True)
    os.utime(piece, (0, 0))
    plan = disk.plan(runs)
    assert going(plan) == {("table", 1), ("table", 2)} and len(plan.work) == 1
    keep(9, {"n": (("table",), ("x",))}, {"table": InputRecord(version=run_name(1))}, outcome="running", ended=None,
         process=Process.here())  # fmt: skip
    assert [each.version for each in pruning.remove(plan, runs)] == [run_name(2)]
    assert disk.left("table") == [1, 3] and piece.exists()


def test_an_incomplete_version_is_not_one_of_the_last(runs, disk):
    disk.put("table", 1, 2)
    disk.put("table", 3, content="!cut")
    plan = disk.plan(runs)
    assert going(plan) == {("table", 1), ("table", 3)}
    list(pruning.remove(plan, runs))
    assert disk.left("table") == [2]


def test_a_killed_removal_leaves_no_partial_version(runs, disk, monkeypatch):
    disk.put("table", 1, 2, 3)
    plan = disk.plan(runs)

    def killed(path: Path) -> None:
        next(path.rglob("table")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        list(pruning.remove(plan, runs))
    assert disk.left("table") == [2, 3]
    second = disk.plan(runs)
    assert len(second.leftovers) == 1 and going(second) == {("table", 2)}
    list(pruning.remove(second, runs))
    assert [path.name[8:10] for path in disk.datasets["table"].folder.iterdir()] == ["03"]


def test_foreign_folders_and_recent_saves_are_kept(runs, disk):
    disk.put("table", 3)
    folder = disk.datasets["table"].folder
    (folder / "backup").mkdir()
    for day, age_s in ((1, 3600), (2, 48 * 3600)):
        cut_off = folder / run_name(day)
        cut_off.mkdir()
        (cut_off / ".table.partial").write_text("half")
        for path in (cut_off / ".table.partial", cut_off):
            os.utime(path, (time.time() - age_s,) * 2)
    plan = disk.plan(runs)
    assert [each.path.name for each in plan.leftovers] == [run_name(2)] and not plan.versions


def test_old_work_is_removed_unless_a_process_has_locked_it(runs, disk):
    for name, days in (("search/sage_1/0123456789abcdef0123", 30), ("training/sage_2/0123456789abcdef0124", 30),
                       ("training/sage_0", 30), ("reddit/extracted/RC_2012-01-0123456789abcdef0123", 1)):  # fmt: skip
        piece = disk.scratch / name
        (piece / "shard-00000").mkdir(parents=True)
        (piece / "lock").touch()
        for path in (*piece.rglob("*"), piece):
            os.utime(path, (time.time() - days * 86400,) * 2)
    with FileLock(disk.scratch / "training/sage_2/0123456789abcdef0124/lock"):
        os.utime(disk.scratch / "training/sage_2/0123456789abcdef0124/lock", (0, 0))
        found = {str(each.path.relative_to(disk.scratch)) for each in pruning.old_work(disk.scratch, 7)}
    assert found == {"search/sage_1/0123456789abcdef0123", "training/sage_0"}


def test_the_record_of_the_last_raw_data_is_kept(runs, keep, disk):
    for day in (1, 2):
        keep(day, {"n": ((), ("dumps",))}, contents={})
    for day in (1, 2):
        record = runs.load(run_name(day))
        raw = output_record("", "x").model_copy(update={"version": None})
        runs.save(record.model_copy(update={"writes": {"dumps": raw}}))
    keep(3)
    assert [each.path.stem[8:10] for each in disk.plan(runs).records] == ["01"]


def test_replays_are_removed_with_their_records_unless_a_replay_is_kept(runs, keep, disk):
    for day in (1, 2):
        keep(day, {"n": ((), ("table",))}, contents={"table": str(day)})
        made = disk.replays / run_name(day) / "table" / run_name(day + 2) / "table"
        made.parent.mkdir(parents=True)
        made.write_text("0123456789")
        keep(day + 2, {"n": ((), ("table",))}, contents={"table": str(day)}, replay_of=run_name(day))
    keep(5)
    disk.put("table", 1, 2)
    (disk.replays / "mine").mkdir()
    runs.tag(run_name(4), "odd")
    plan = disk.plan(runs, keep=1)
    assert [(each.path, each.bytes) for each in plan.replays] == [(disk.replays / run_name(1), 10)]
    assert [each.path.stem[8:10] for each in plan.records] == ["03", "01"]
    keep(6, replay_of=run_name(1), outcome="running", ended=None, process=Process.here())
    assert not disk.plan(runs, keep=1).replays
    list(pruning.remove(plan, runs))
    assert {path.name for path in disk.replays.iterdir()} == {run_name(1), run_name(2), "mine"}  # it has begun since
    runs.file(run_name(6)).unlink()
    list(pruning.remove(disk.plan(runs, keep=1), runs))
    assert {path.name for path in disk.replays.iterdir()} == {run_name(2), "mine"}


def test_a_record_goes_with_its_lines_and_with_code_that_no_other_refers_to(runs, keep, disk):
    for day, code in ((1, {"a": "1"}), (2, {"a": "1"}), (3, {"a": "2"})):
        keep(day, code=code)
        runs.append(run_name(day), nodes={})
    code = {day: runs.code_file(runs.code_name(run_name(day))) for day in (1, 3)}
    assert code[1] not in {each.path for each in disk.plan(runs, keep=1)}, "a run may have begun with it just now"
    os.utime(code[1], (0, 0))
    assert code[1] not in {each.path for each in disk.plan(runs, keep=2)}
    list(pruning.remove(disk.plan(runs, keep=1), runs))
    left = {path for path in runs.path.rglob("*") if path.is_file()}
    assert left == {runs.file(run_name(3)), runs.lines_file(run_name(3)), code[3]}


def test_a_replay_does_not_count_as_the_last_writer_of_raw_data(runs, keep, disk):
    raw = output_record("", "x").model_copy(update={"version": None})
    for day, replay_of in ((1, None), (2, run_name(1)), (3, None)):
        record = keep(day, {"n": ((), ("dumps",))}, replay_of=replay_of)
        runs.save(record.model_copy(update={"writes": {"dumps": raw} if day < 3 else {}}))
    assert [each.path.stem[8:10] for each in disk.plan(runs).records] == ["02"]


def test_nothing_is_removed_if_a_needed_record_is_unreadable(runs, keep, disk):
    for day in (1, 2, 3):
        keep(day, {"n": ((), ("table",))}, contents={"table": str(day)})
    disk.put("table", 1, 2, 3)
    runs.tag(run_name(1), "paper")
    runs.file(run_name(2)).write_text("{")
    assert going(disk.plan(runs)) == {("table", 2)}
    runs.file(run_name(1)).write_text("{")
    with pytest.raises(NoSuchRunError, match=f"{run_name(1)}.json is not a readable run record.*Nothing was removed"):
        disk.plan(runs)
    runs.file(run_name(1)).write_text("")  # killed as it began: it needs nothing but what has its name
    assert going(disk.plan(runs)) == {("table", 2)}
