"""The record of a run while it is running, and after it has failed or was killed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset, SharedMemoryDataCatalog, Version
from kedro.pipeline import Pipeline, node
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner

from sage_dialog.datasets.files import AtomicPage
from sage_dialog.datasets.hub_model import HubBase
from sage_dialog.datasets.human_votes import HumanVotes
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.datasets.previous_tables import PreviousTables
from sage_dialog.datasets.raw_folder import RawFolder
from sage_dialog.datasets.roles import RoleDataset, RolePanel
from sage_dialog.hooks.budget import RunBudget
from sage_dialog.hooks.errors import RunRefused, RunStopped
from sage_dialog.hooks.recording import node_code, node_spec, record_input
from sage_dialog.hooks.run_record import REPLAY_OF, Recorder
from sage_dialog.lineage.content import RUN_LINE, DigestCache, changed_files, content_of
from sage_dialog.lineage.records import Git, RunRecord
from sage_dialog.lineage.run_folder import RunFolder

OLD = "2026-03-01T12.00.00.000Z"
SECRET = "sk-not-to-be-seen-0123456789"
ROLE = "sage_dialog.roles.offline.annotator.OfflineAnnotator"


def double(table: pd.DataFrame, files: dict[str, Path]) -> pd.DataFrame:
    return 2 * table + len(files)


def halve(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    return table[:1], table[1:]


def fail(table: pd.DataFrame) -> pd.DataFrame:
    raise ValueError(f"no such thing with {SECRET}\nand more")


class Project:
    """A folder with data, and runs of two nodes with the recorder as their only hook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = RunFolder(folder / "data/runs")
        self.spending = RunBudget()
        self.parameters: dict[str, Any] = {"seed": 3, "api_key": SECRET, "mix_versions": False}
        if not (folder / "raw").exists():  # another process may run on the same folder
            n = AtomicParquet(filepath=str(folder / "n.parquet"), version=Version(None, OLD))
            n.save(pd.DataFrame({"n": [1, 2]}))
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
        page = AtomicPage(filepath=str(self.folder / "page.html"), version=Version(None, run))
        return made({**entries, "raw": raw, "page": page, "annotator": RoleDataset(role=ROLE)})

    def run(self, day: int = 2, pipeline: Pipeline | None = None, runner: Any = None, **params: Any) -> RunRecord:
        """Run a pipeline and return the record."""
        run = f"2026-03-{day:02}T12.00.00.000Z"
        recorder = Recorder(self.spending)
        hooks = _create_hook_manager()
        hooks.register(recorder)
        loader = {"globals": {"data": "data"}, "credentials": {"x": {"api_key": SECRET}}, "parameters": self.parameters}
        recorder.after_context_created(SimpleNamespace(project_path=self.folder, config_loader=loader, env="test"))
        parallel = isinstance(runner, ParallelRunner)
        catalog = self.catalog(run, SharedMemoryDataCatalog) if parallel else self.catalog(run)
        pipeline = pipeline or self.pipeline
        run_params = {"run_id": run, "pipeline_names": ["p"], "runner": str(runner)} | params
        hooks.hook.before_pipeline_run(run_params=run_params, pipeline=pipeline, catalog=catalog)
        try:
            (runner or SequentialRunner()).run(pipeline, catalog, hooks)
        except Exception as error:
            hooks.hook.on_pipeline_error(error=error, run_params=run_params, pipeline=pipeline, catalog=catalog)
        else:
            hooks.hook.after_pipeline_run(run_params=run_params, run_result={}, pipeline=pipeline, catalog=catalog)
        return self.runs.load(run)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_a_record_has_the_inputs_outputs_and_configuration_of_a_run(project: Project, runner: Any) -> None:
    record = project.run(runner=runner())
    assert (record.outcome, record.status, record.error, record.environment) == ("done", "done", None, "test")
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


def write_page(table: pd.DataFrame) -> str:
    return f"<p>{len(table)} rows</p>\n{RUN_LINE}\n"


def test_a_page_names_its_run_and_has_the_same_digest_in_the_next_one(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([Git(revision="0123456789abcdef", changed=("a.py",)), None])
    monkeypatch.setattr("sage_dialog.hooks.run_record.git_state", lambda folder: next(states))
    pages = Pipeline([node(write_page, "n", "page", name="write")])
    records = [project.run(day, pages) for day in (2, 3)]
    texts = [(project.folder / f"page.html/{record.run}/page.html").read_text() for record in records]
    dates = [record.started[:16].replace("T", " ") for record in records]
    assert f"Run {records[0].run}, started {dates[0]} UTC, commit 0123456789ab, with changes." in texts[0]
    assert f"Run {records[1].run}, started {dates[1]} UTC, code in no repository." in texts[1]
    assert records[0].writes["page"].sha256 == records[1].writes["page"].sha256


def test_no_secret_is_recorded(project: Project) -> None:
    project.run(pipeline=Pipeline([node(fail, "n", "failed", name="fail")]))
    assert SECRET not in "".join(path.read_text() for path in project.runs.path.glob("*.json"))


def test_a_failed_run_records_its_error_and_outputs(project: Project) -> None:
    project.pipeline += Pipeline([node(fail, "right", "failed", name="fail")])
    record = project.run()
    assert record.outcome == "failed" and record.error == "ValueError: no such thing with …"
    assert set(record.writes) == {"doubled", "left", "right"}
    assert record.nodes["fail"].started and record.nodes["fail"].ended is None


def test_a_run_that_reaches_a_cap_is_stopped(project: Project) -> None:
    def stop(table: pd.DataFrame) -> pd.DataFrame:
        raise RunStopped("a cap is reached")

    record = project.run(pipeline=Pipeline([node(stop, "n", "failed", name="stop")]))
    assert (record.outcome, record.error) == ("stopped", "RunStopped: a cap is reached")


def test_the_record_is_saved_before_the_next_node_starts(project: Project) -> None:
    seen: list[RunRecord] = []

    def look(table: pd.DataFrame) -> pd.DataFrame:
        seen.append(project.runs.load("latest"))
        return table

    project.run(pipeline=project.pipeline + Pipeline([node(look, "left", "other", name="look")]))
    assert seen[0].outcome == "running" and seen[0].ended is None
    assert {"doubled", "left"} <= set(seen[0].writes) and seen[0].nodes["double"].ended


def test_only_the_main_process_of_a_parallel_run_writes_the_record(project: Project) -> None:
    record = project.run(runner=ParallelRunner(max_workers=2))
    assert (record.outcome, record.error) == ("done", None) and set(record.writes) == {"doubled", "left", "right"}
    assert record.selection.runner == "ParallelRunner"
    assert record.writes["left"].node == "halve"


def test_a_process_that_did_not_start_the_run_writes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_a_worker(table: pd.DataFrame) -> pd.DataFrame:
        monkeypatch.setattr("os.getpid", lambda: -1)
        return table

    record = project.run(pipeline=Pipeline([node(in_a_worker, "n", "other", name="w")]))
    assert record.outcome == "running" and record.writes == {}


def test_an_input_takes_the_recorded_digest_unless_the_file_has_changed(project: Project) -> None:
    first = project.run(2)
    pipeline = Pipeline([node(halve, "doubled", ["left", "right"], name="halve")])
    assert project.run(3, pipeline).reads["doubled"].sha256 == first.writes["doubled"].sha256
    path = project.folder / "doubled.parquet" / first.run / "doubled.parquet"
    AtomicParquet(filepath=str(path)).save(pd.DataFrame({"n": [7, 7]}))
    changed = project.run(4, pipeline)
    assert changed.reads["doubled"].sha256 == content_of(path).sha256 != first.writes["doubled"].sha256


def test_a_run_that_would_mix_versions_is_refused_unless_allowed(project: Project) -> None:
    project.run(2)
    AtomicParquet(filepath=str(project.folder / "n.parquet"), version=Version(None, "2026-03-03T12.00.00.000Z")).save(
        pd.DataFrame({"n": [5, 6]})
    )
    both = Pipeline([node(lambda a, b: a, ["n", "doubled"], "other", name="both")])
    with pytest.raises(RunRefused, match="would mix") as refusal:
        project.run(4, both)
    assert f"doubled 2026-03-02T12.00.00.000Z was made from {OLD}" in str(refusal.value)
    assert len(project.runs.names()) == 1
    project.parameters["mix_versions"] = True
    assert project.run(5, both).outcome == "done"


def test_raw_data_that_a_run_wrote_is_the_same_data_in_later_runs(project: Project) -> None:
    world = Pipeline([node(lambda: {"RC_1": b"generated"}, None, "raw", name="world")])
    shutil.rmtree(project.folder / "raw")
    project.run(2, world + project.pipeline)
    project.run(3, project.pipeline.only_nodes("double"))
    other = Pipeline([node(lambda left, doubled: left, ["left", "doubled"], "other", name="evaluate")])
    assert project.run(4, other).outcome == "done", "as after the demo: data_processing, then evaluation"
    os.utime(project.folder / "raw/RC_1", ns=(1, 1))
    assert project.run(5, project.pipeline.only_nodes("double")).outcome == "done"
    assert project.run(6, other).outcome == "done", "touched, not changed"
    (project.folder / "raw/RC_2").write_text("another dump")
    project.run(7, project.pipeline.only_nodes("double"))
    with pytest.raises(RunRefused, match=r"(?s)  doubled: this run reads .*  raw: .*RC_2"):
        project.run(8, other)


def test_a_clock_that_was_ahead_is_named_before_its_versions_hide_new_ones(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    future = "2999-03-01T12.00.00.000Z"
    for name in ("doubled", "left"):
        AtomicParquet(filepath=str(project.folder / f"{name}.parquet"), version=Version(None, future)).save(
            pd.DataFrame({"n": [0]})
        )
    with pytest.raises(RunRefused, match="dated in the future") as refusal:
        project.run()
    assert f"doubled: {future}" in str(refusal.value) and not project.runs.names()
    remedy = str(refusal.value).splitlines()[-1]
    other = Pipeline([node(lambda table: table, "doubled", "other", name="read")])
    assert project.run(3, other).reads["doubled"].version == future
    assert "doubled.parquet is dated in the future" in caplog.text.replace(f"{future}/", "")
    subprocess.run(remedy.replace(str(project.folder / "data"), str(project.folder)), shell=True, check=True)
    assert project.run(4).outcome == "done"


def test_votes_cast_during_a_run_are_recorded_as_they_are_read(project: Project) -> None:
    votes = HumanVotes(filepath=str(project.folder / "votes"))
    catalog = project.catalog
    project.catalog = lambda run: DataCatalog({**dict(catalog(run).items()), "votes": votes})  # type: ignore[method-assign]

    def vote(table: pd.DataFrame) -> pd.DataFrame:
        (project.folder / "votes").mkdir()
        (project.folder / "votes/anna.jsonl").write_text("")
        return table

    count = node(lambda table, given: table, ["other", "votes"], "left", name="count")
    record = project.run(pipeline=Pipeline([node(vote, "n", "other", name="vote"), count]))
    assert set(record.reads["votes"].files) == {"anna.jsonl"}
    (project.folder / "votes/anna.jsonl").write_text("\n")
    read = record_input("votes", votes, project.runs, DigestCache(project.folder / "digests.json"))
    assert not read.equals(record.reads["votes"])


def test_the_files_of_a_base_in_a_local_folder_are_recorded(tmp_path: Path) -> None:
    base = HubBase(repo="r/m", revision="0" * 40, folder=str(tmp_path / "base"))
    (tmp_path / "base").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "consolidated.safetensors"):
        (tmp_path / "base" / name).write_text("1")
    runs, digests = RunFolder(tmp_path / "runs"), DigestCache(tmp_path / "digests.json")
    first = record_input("sage_0", base, runs, digests)
    assert set(first.files) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert first.definition["revision"] == "0" * 40
    (tmp_path / "base/model.safetensors").write_text("2 ")
    assert changed_files(first.files, record_input("sage_0", base, runs, digests).files) == ["model.safetensors"]
    assert record_input("sage_0", HubBase(repo="r/m", revision="0" * 40), runs, digests).files is None


def test_the_code_of_a_dataset_of_the_project_is_that_of_the_nodes_that_use_it(tmp_path: Path) -> None:
    catalog = DataCatalog(
        {
            "n": AtomicParquet(filepath=str(tmp_path / "n.parquet"), version=Version(None, OLD)),
            "library": MemoryDataset(),
        }
    )
    read, write, neither = (
        node(double, given, output, name="one")
        for given, output in ((["n", "library"], "x"), (["library", "x"], "n"), (["library", "x"], "y"))
    )
    for used in (read, write):
        assert {"sage_dialog.datasets.parquet:AtomicParquet", "sage_dialog.datasets.atomic:AtomicMixin"} <= set(
            node_code(used, catalog)
        )
    assert not any(name.startswith(("sage_dialog.datasets", "kedro")) for name in node_code(neither, catalog))


def test_the_arguments_of_a_node_are_recorded() -> None:
    def many(first: Any, *rest: Any, last: Any = None) -> None: ...

    @functools.wraps(many)
    def wrapped(*given: Any) -> None: ...

    assert node_spec(node(double, ["a", "b"], "c")).arguments == (("table", "a"), ("files", "b"))
    assert node_spec(node(double, {"files": "a", "table": "b"}, "c")).arguments == (("table", "b"), ("files", "a"))
    assert node_spec(node(fail, "params:a", "c")).arguments == (("table", "params:a"),)
    assert node_spec(node(many, ["a", "b", "c"], "d")).arguments == (("first", "a"), ("rest[0]", "b"), ("rest[1]", "c"))
    assert node_spec(node(wrapped, ["a", "b"], "d")).arguments == (("given[0]", "a"), ("given[1]", "b"))
    assert node_spec(node(functools.partial(many, last=1), ["a", "b"], "d", name="p")).arguments[1] == ("rest[0]", "b")
    assert node_spec(node(max, ["a", "b"], "d")).arguments == ()


def test_a_refused_run_leaves_no_record(open_session: Any, tmp_path: Path) -> None:
    with open_session() as session, pytest.raises(RunRefused, match="Missing inputs"):
        session.run(pipeline_names=["data_processing"])
    assert not list(tmp_path.rglob("runs"))


def test_a_run_id_in_use_is_refused(project: Project) -> None:
    project.run(2)
    with pytest.raises(RunRefused, match="same millisecond"):
        project.run(2)


BUSY = """
import sys, time
folder, tests, day, delay = sys.argv[1:]
sys.path[:0] = [tests]
from pathlib import Path
import test_run_record as t
from kedro.pipeline import Pipeline, node

def wait(table):
    print("busy", flush=True)
    time.sleep(300)

def delayed(self, record, begin=t.RunFolder.begin):
    time.sleep(float(delay))
    begin(self, record)

t.RunFolder.begin = delayed
project = t.Project(Path(folder))
project.pipeline += Pipeline([node(wait, "left", "other", name="wait")])
print("ready", flush=True)
input()
try:
    project.run(int(day))
except t.RunRefused as refused:
    print(refused, flush=True)
"""


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts a process, ready to run the pipeline of `Project` and to hang in its last node."""
    started: list[subprocess.Popen[str]] = []

    def start(day: int, delay: float = 0.0) -> subprocess.Popen[str]:
        here = Path(__file__).parent
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", BUSY, str(tmp_path), str(here), str(day), str(delay)],
                env=os.environ | {"PYTHONPATH": str(here.parents[1] / "src")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_run_is_refused_while_another_one_writes_the_same(
    project: Project, start_run: Callable[..., subprocess.Popen[str]]
) -> None:
    other = start_run(day=3)
    go(other)
    assert other.stdout.readline() == "busy\n"
    running = project.runs.load("latest")
    with pytest.raises(RunRefused) as refused:
        project.run(4)
    assert f"Run {running.run} (process {other.pid}, since {running.started[:10]} " in str(refused.value)
    assert "is writing doubled, left, right; " in str(refused.value) and f"(kill {other.pid})" in str(refused.value)
    assert len(project.runs.names()) == 1
    # Another output may be written beside it.
    assert project.run(5, pipeline=Pipeline([node(double, ["n", "raw"], "failed", name="f")])).outcome == "done"
    other.kill()
    other.wait()
    assert project.run(6).outcome == "done"


@pytest.mark.slow
def test_of_two_runs_that_start_at_once_one_is_refused(
    project: Project, start_run: Callable[..., subprocess.Popen[str]]
) -> None:
    both = [start_run(day, delay=1.0) for day in (3, 4)]
    for process in both:
        go(process)
    said = [process.stdout.readline() for process in both]
    assert sorted(line == "busy\n" for line in said) == [False, True]
    refused = next(line for line in said if line != "busy\n")
    assert "is writing doubled, left, other and 1 more; this run would write the same and was not started." in refused


def test_a_run_that_may_be_alive_on_another_machine_is_a_warning(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    record = project.run(3)
    elsewhere = record.process.model_copy(update={"host": "elsewhere"})
    project.runs.save(record.model_copy(update={"outcome": "running", "process": elsewhere}))
    assert project.run(4).outcome == "done"
    assert f"Run {record.run} on the machine elsewhere" in caplog.text


def test_a_run_that_ctrl_c_ended_does_not_block_the_next_one_of_its_process(project: Project) -> None:
    def interrupt(table: pd.DataFrame) -> pd.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project.run(3, pipeline=project.pipeline + Pipeline([node(interrupt, "left", "other", name="end")]))
    assert project.run(4).outcome == "done"


def test_a_replay_records_the_run_it_repeats(project: Project) -> None:
    token = REPLAY_OF.set(OLD)
    try:
        assert project.run().replay_of == OLD
    finally:
        REPLAY_OF.reset(token)


def test_roles_are_recorded_by_their_definition(project: Project) -> None:
    endpoint = {"base_urls": [f"https://user:{SECRET}@host:1/v1"], "model": "m", "sampling": {"temperature": 0.5}}
    prompt = project.folder / "judge.txt"
    prompt.write_text("Which is better?")
    panel = RolePanel(
        roles={"a": {"role": ROLE, "args": {"token": SECRET, "prompt": {"filepath": str(prompt)}},
                     "endpoint": endpoint,
                     "credentials": {"api_key": SECRET}}}
    )  # fmt: skip
    definition = panel.describe_input().definition
    assert SECRET not in json.dumps(definition) and str(project.folder) not in json.dumps(definition)
    prompt.write_text("Which is worse?")
    assert panel.describe_input().definition != definition
    assert definition["roles"]["a"]["endpoint"] == {"model": "m", "sampling": {"temperature": 0.5}, "hosts": ["host"]}
    assert definition["roles"]["a"]["role"] == ROLE and ROLE in panel.code_paths()
    record = project.run(pipeline=Pipeline([node(lambda n, role: n, ["n", "annotator"], "other", name="r")]))
    assert record.reads["annotator"].definition["role"] == ROLE
    assert any(name.startswith("sage_dialog.roles.offline.annotator:") for name in record.code)


def test_cost_and_replying_models_are_recorded(project: Project) -> None:
    from sage_dialog.config import Caps
    from sage_dialog.llm import event_loop as loop
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.requests import ChatRequest

    budget = project.spending.budget = Budget(Caps(), {}, {})

    async def call() -> None:
        request = ChatRequest("judge", "m", ({"role": "user", "content": "x"},), {"max_tokens": 5})
        budget.settle(await budget.reserve(request), 7, 0.25)

    loop.run(call())
    budget.record_model("judge", {"model": "m-2026", "system_fingerprint": "fp_1", "choices": []})
    record = project.run()
    assert record.spent["judge"].model_dump() == {"calls": 1, "tokens": 7, "money": 0.25}
    assert set(record.spent) == {"judge", "the run"} and record.answered == {"judge": ("m-2026 fp_1",)}


def test_tables_of_previous_runs_are_recorded_with_the_opened_versions(tmp_path: Path, project: Project) -> None:
    from sage_dialog import schemas
    from sage_dialog.core.tables import from_rows

    row = {"source": "s", "record": "r", "reason": "why"}
    path = str(tmp_path / "trajectories_2.parquet")
    AtomicParquet(filepath=path, version=Version(None, OLD)).save(from_rows([row], schemas.MIX_REJECTS))
    earlier = PreviousTables(folder=str(tmp_path), schema="MIX_REJECTS")
    before = project.catalog
    project.catalog = lambda run: DataCatalog({**dict(before(run).items()), "earlier": earlier})  # type: ignore[method-assign]
    drawn = node(lambda n, open_table: open_table("trajectories_2") and n, ["n", "earlier"], "other", name="mix")
    assert project.run(pipeline=Pipeline([drawn])).reads["earlier"].definition["tables"] == {"trajectories_2": OLD}


KILLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
import test_run_record as t
from kedro.pipeline import Pipeline, node
def end(table):
    os.kill(os.getpid(), int(sys.argv[3]))
project = t.Project(Path(sys.argv[1]))
try:
    project.run(pipeline=project.pipeline + Pipeline([node(end, "left", "other", name="end")]))
except KeyboardInterrupt:
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize(("signal", "status"), [(9, "killed"), (2, "stopped")], ids=["SIGKILL", "Ctrl-C"])
def test_a_killed_or_interrupted_run_has_a_record_with_that_status(tmp_path: Path, signal: int, status: str) -> None:
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": str(here.parents[1] / "src")}
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(here), str(signal)], env=environment, capture_output=True
    )
    record = RunFolder(tmp_path / "data/runs").load("latest")
    assert record.status == status
    assert set(record.writes) >= {"doubled", "left"} and record.nodes["end"].ended is None


def test_a_recorded_error_contains_no_part_of_a_secret(project: Project) -> None:
    key = "key-of-a-parameter-0123456789"
    project.parameters["api_key"] = key

    def fail_long(table: pd.DataFrame) -> pd.DataFrame:
        raise ValueError("x" * (500 - len("ValueError: ") - 12) + key)

    record = project.run(pipeline=Pipeline([node(fail_long, "n", "failed", name="fail")]))
    assert record.error is not None and "key-of" not in record.error and record.error.endswith("x…")
