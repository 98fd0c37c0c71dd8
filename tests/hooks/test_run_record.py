"""A run's record, written by the hook as the run goes: what it holds, when, and whatever becomes of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, SharedMemoryDataCatalog, Version
from kedro.pipeline import Pipeline, node
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner

from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.previous_tables import PreviousTables
from sage_dialog.datasets.raw_folder import RawFolder
from sage_dialog.datasets.roles import RoleDataset, RolePanel
from sage_dialog.hooks.budget import RunBudget
from sage_dialog.hooks.errors import RunRefused, RunStopped
from sage_dialog.hooks.run_record import REPLAY_OF, Recorder
from sage_dialog.lineage.content import content_of
from sage_dialog.lineage.records import RunFolder, RunRecord

OLD = "2026-03-01T12.00.00.000Z"
SECRET = "sk-not-to-be-seen-0123456789"
ROLE = "sage_dialog.roles.offline.annotator.OfflineAnnotator"


def double(table: pa.Table, files: dict[str, Path]) -> pa.Table:
    return pa.table({"n": [2 * n + len(files) for n in table["n"].to_pylist()]})


def halve(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    return table.slice(0, 1), table.slice(1)


def fail(table: pa.Table) -> pa.Table:
    raise ValueError(f"no such thing with {SECRET}\nand more")


class Project:
    """A folder with data, and runs of two nodes in it with nothing but the recorder around them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = RunFolder(folder / "data/runs")
        self.spending = RunBudget()
        self.parameters: dict[str, Any] = {"seed": 3, "api_key": SECRET, "mix_versions": False}
        AtomicParquet(filepath=str(folder / "n.parquet"), version=Version(None, OLD)).save(pa.table({"n": [1, 2]}))
        (folder / "raw").mkdir()
        (folder / "raw/RC_1").write_text("a dump")
        self.pipeline = Pipeline(
            [
                node(double, ["n", "raw"], "doubled", name="double"),
                node(halve, "doubled", ["left", "right"], name="halve"),
            ]
        )

    def catalog(self, run: str, made: type[DataCatalog] = DataCatalog) -> DataCatalog:
        entries: dict[str, Any] = {
            name: AtomicParquet(filepath=str(self.folder / f"{name}.parquet"), version=Version(None, run))
            for name in ("n", "doubled", "left", "right", "failed", "other")
        }
        raw = RawFolder(filepath=str(self.folder / "raw"), patterns=["RC_*"], made_by="nothing")
        return made({**entries, "raw": raw, "annotator": RoleDataset(role=ROLE)})

    def run(self, day: int = 2, pipeline: Pipeline | None = None, runner: Any = None, **params: Any) -> RunRecord:
        """The record of a run, which may have failed."""
        run = f"2026-03-{day:02}T12.00.00.000Z"
        recorder = Recorder(self.spending)
        hooks = _create_hook_manager()
        hooks.register(recorder)
        loader = {"globals": {"data": "data"}, "credentials": {"x": {"api_key": SECRET}}, "parameters": self.parameters}
        recorder.after_context_created(SimpleNamespace(project_path=self.folder, config_loader=loader, env="test"))
        parallel = isinstance(runner, ParallelRunner)
        catalog = self.catalog(run, SharedMemoryDataCatalog) if parallel else self.catalog(run)
        pipeline = pipeline or self.pipeline
        asked = {"run_id": run, "pipeline_names": ["p"], "runner": str(runner)} | params
        hooks.hook.before_pipeline_run(run_params=asked, pipeline=pipeline, catalog=catalog)
        try:
            (runner or SequentialRunner()).run(pipeline, catalog, hooks)
        except Exception as error:
            hooks.hook.on_pipeline_error(error=error, run_params=asked, pipeline=pipeline, catalog=catalog)
        else:
            hooks.hook.after_pipeline_run(run_params=asked, run_result={}, pipeline=pipeline, catalog=catalog)
        return self.runs.read(run)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_a_record_holds_all_that_decided_a_run_and_all_it_gave(project: Project, runner: Any) -> None:
    record = project.run(runner=runner())
    assert (record.outcome, record.fate, record.error, record.environment) == ("done", "done", None, "test")
    assert record.selection.pipelines == ("p",) and record.selection.runner == runner.__name__
    assert record.reads["n"].version == OLD
    assert record.reads["n"].sha256 == content_of(project.folder / "n.parquet" / OLD / "n.parquet").sha256
    assert record.reads["raw"].files["RC_1"].bytes == 6
    assert set(record.reads) == {"n", "raw"}
    assert set(record.writes) == {"doubled", "left", "right"}
    for name, written in record.writes.items():
        path = project.folder / f"{name}.parquet" / record.run / f"{name}.parquet"
        assert (written.version, *content_of(path)) == (record.run, written.bytes, written.modified_ns, written.sha256)
    assert record.nodes["halve"].inputs == ("doubled",) and record.nodes["halve"].outputs == ("left", "right")
    assert all(each.started and each.ended and each.code for each in record.nodes.values())
    assert record.parameters["seed"] == 3 and record.packages["kedro"]
    assert record.process.pid == os.getpid() and record.started <= record.ended


def test_nothing_secret_comes_into_a_record(project: Project) -> None:
    project.run(pipeline=Pipeline([node(fail, "n", "failed", name="fail")]))
    assert SECRET not in "".join(path.read_text() for path in project.runs.path.glob("*.json"))


def test_a_run_that_fails_says_why_and_what_it_had_written(project: Project) -> None:
    project.pipeline += Pipeline([node(fail, "right", "failed", name="fail")])
    record = project.run()
    assert record.outcome == "failed" and record.error == "ValueError: no such thing with …"
    assert set(record.writes) == {"doubled", "left", "right"}
    assert record.nodes["fail"].started and record.nodes["fail"].ended is None


def test_a_run_that_a_cap_ends_is_stopped(project: Project) -> None:
    def stop(table: pa.Table) -> pa.Table:
        raise RunStopped("a cap is reached")

    record = project.run(pipeline=Pipeline([node(stop, "n", "failed", name="stop")]))
    assert (record.outcome, record.error) == ("stopped", "RunStopped: a cap is reached")


def test_the_record_is_on_disk_before_the_next_node_begins(project: Project) -> None:
    seen: list[RunRecord] = []

    def look(table: pa.Table) -> pa.Table:
        seen.append(project.runs.read("latest"))
        return table

    project.run(pipeline=project.pipeline + Pipeline([node(look, "left", "other", name="look")]))
    assert seen[0].outcome == "running" and seen[0].ended is None
    assert {"doubled", "left"} <= set(seen[0].writes) and seen[0].nodes["double"].ended


def test_processes_of_a_parallel_run_leave_the_record_to_the_one_that_began_it(project: Project) -> None:
    record = project.run(runner=ParallelRunner(max_workers=2))
    assert (record.outcome, record.error) == ("done", None) and set(record.writes) == {"doubled", "left", "right"}
    assert record.selection.runner == "ParallelRunner"
    assert record.writes["left"].node == "halve"


def test_a_process_that_did_not_begin_the_run_writes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_a_worker(table: pa.Table) -> pa.Table:
        monkeypatch.setattr("os.getpid", lambda: -1)
        return table

    record = project.run(pipeline=Pipeline([node(in_a_worker, "n", "other", name="w")]))
    assert record.outcome == "running" and record.writes == {}


def test_reads_take_the_digest_that_the_writer_found_unless_the_file_has_changed(project: Project) -> None:
    first = project.run(2)
    pipeline = Pipeline([node(halve, "doubled", ["left", "right"], name="halve")])
    assert project.run(3, pipeline).reads["doubled"].sha256 == first.writes["doubled"].sha256
    path = project.folder / "doubled.parquet" / first.run / "doubled.parquet"
    AtomicParquet(filepath=str(path)).save(pa.table({"n": [7, 7]}))
    changed = project.run(4, pipeline)
    assert changed.reads["doubled"].sha256 == content_of(path).sha256 != first.writes["doubled"].sha256


def test_a_run_that_would_mix_is_refused_without_a_record_and_runs_with_the_flag(project: Project) -> None:
    project.run(2)
    AtomicParquet(
        filepath=str(project.folder / "n.parquet"), version=Version(None, "2026-03-03T12.00.00.000Z")
    ).save(pa.table({"n": [5, 6]}))
    both = Pipeline([node(lambda a, b: a, ["n", "doubled"], "other", name="both")])
    with pytest.raises(RunRefused, match="would mix") as refusal:
        project.run(4, both)
    assert f"doubled 2026-03-02T12.00.00.000Z was made from {OLD}" in str(refusal.value)
    assert len(project.runs.names()) == 1
    project.parameters["mix_versions"] = True
    assert project.run(5, both).outcome == "done"


def test_a_run_that_a_gate_refuses_leaves_no_record(open_session: Any, tmp_path: Path) -> None:
    with open_session() as session, pytest.raises(RunRefused, match="Missing inputs"):
        session.run(pipeline_names=["data_processing"])
    assert not list(tmp_path.rglob("runs"))


def test_a_name_that_another_run_has_is_refused(project: Project) -> None:
    project.run(2)
    with pytest.raises(RunRefused, match="this very millisecond"):
        project.run(2)


def test_a_replay_says_what_it_repeats(project: Project) -> None:
    token = REPLAY_OF.set(OLD)
    try:
        assert project.run().replay_of == OLD
    finally:
        REPLAY_OF.reset(token)


def test_roles_are_recorded_by_what_decides_their_replies(project: Project) -> None:
    endpoint = {"base_urls": [f"https://user:{SECRET}@host:1/v1"], "model": "m", "sampling": {"temperature": 0.5}}
    prompt = project.folder / "judge.txt"
    prompt.write_text("Which is better?")
    panel = RolePanel(
        roles={"a": {"role": ROLE, "args": {"token": SECRET, "prompt": {"filepath": str(prompt)}},
                     "endpoint": endpoint,
                     "credentials": {"api_key": SECRET}}}
    )  # fmt: skip
    revision = panel.describe_input().definition
    assert SECRET not in json.dumps(revision) and str(project.folder) not in json.dumps(revision)
    prompt.write_text("Which is worse?")
    assert panel.describe_input().definition != revision
    assert revision["roles"]["a"]["endpoint"] == {"model": "m", "sampling": {"temperature": 0.5}, "hosts": ["host"]}
    assert revision["roles"]["a"]["role"] == ROLE and ROLE in panel.code_paths()
    record = project.run(pipeline=Pipeline([node(lambda n, role: n, ["n", "annotator"], "other", name="r")]))
    assert record.reads["annotator"].made["role"] == ROLE
    assert any(name.startswith("sage_dialog.roles.offline.annotator:") for name in record.code)


def test_a_budget_s_spending_and_the_models_that_replied_are_recorded(project: Project) -> None:
    from sage_dialog.config import Caps
    from sage_dialog.llm import event_loop as loop
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.requests import ChatRequest

    budget = project.spending.budget = Budget(Caps(), {}, {})

    async def call() -> None:
        request = ChatRequest("judge", "m", ({"role": "user", "content": "x"},), {"max_tokens": 5})
        await budget.settle(await budget.reserve(request), 7, 0.25)

    loop.run(call())
    budget.record_model("judge", {"model": "m-2026", "system_fingerprint": "fp_1", "choices": []})
    record = project.run()
    assert record.spent["judge"].model_dump() == {"calls": 1, "tokens": 7, "money": 0.25}
    assert set(record.spent) == {"judge", "the run"} and record.answered == {"judge": ("m-2026 fp_1",)}


def test_earlier_tables_are_recorded_with_the_versions_that_were_opened(tmp_path: Path, project: Project) -> None:
    from sage_dialog import schemas
    from sage_dialog.core.tables import table

    row = {"source": "s", "record": "r", "reason": "why"}
    path = str(tmp_path / "trajectories_2.parquet")
    AtomicParquet(filepath=path, version=Version(None, OLD)).save(table([row], schemas.MIX_REJECTS))
    earlier = PreviousTables(folder=str(tmp_path), schema="MIX_REJECTS")
    before = project.catalog
    project.catalog = lambda run: DataCatalog({**dict(before(run).items()), "earlier": earlier})  # type: ignore[method-assign]
    drawn = node(lambda n, open_table: open_table("trajectories_2") and n, ["n", "earlier"], "other", name="mix")
    assert project.run(pipeline=Pipeline([drawn])).reads["earlier"].made["tables"] == {"trajectories_2": OLD}


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
import test_recorder as t
from kedro.pipeline import Pipeline, node
def end(table):
    os.kill(os.getpid(), int(sys.argv[3]))
project = t.Project(Path(sys.argv[1]))
try:
    project.run(pipeline=project.pipeline + Pipeline([node(end, "left", "other", name="end")]))
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize(("signal", "fate"), [(9, "killed"), (2, "stopped")], ids=["SIGKILL", "Ctrl-C"])
def test_a_run_that_was_killed_or_interrupted_has_a_record_that_says_so(tmp_path: Path, signal: int, fate: str) -> None:
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1] / "src")}
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(here), str(signal)], env=environment, capture_output=True
    )
    record = RunFolder(tmp_path / "data/runs").read("latest")
    assert record.fate == fate
    assert set(record.writes) >= {"doubled", "left"} and record.nodes["end"].ended is None


def test_an_error_tells_no_secret_of_a_parameter_not_even_the_beginning_of_one(project: Project) -> None:
    key = "key-of-a-parameter-0123456789"
    project.parameters["api_key"] = key

    def fail_long(table: pa.Table) -> pa.Table:
        raise ValueError("x" * (500 - len("ValueError: ") - 12) + key)

    record = project.run(pipeline=Pipeline([node(fail_long, "n", "failed", name="fail")]))
    assert record.error is not None and "key-of" not in record.error and record.error.endswith("x…")
