"""What makes an output stale, and which nodes a refresh and a replay run, on synthetic records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sage_dialog.lineage.code import digest
from sage_dialog.lineage.content import Content
from sage_dialog.lineage.formatting import tree_differences
from sage_dialog.lineage.records import (
    FORMAT,
    File,
    Git,
    InputRecord,
    NodeRecord,
    OutputRecord,
    Process,
    RunRecord,
    Selection,
)
from sage_dialog.lineage.replay_plan import CannotReplayError, environment_changes, plan_replay
from sage_dialog.lineage.run_folder import RunFolder
from sage_dialog.lineage.staleness import NodeSpec, OutputStatus, certainly_stale, output_statuses, plan_refresh

FIRST, SECOND, THIRD = (f"2026-11-20T0{hour}.00.00.000Z" for hour in (1, 2, 3))

READ = NodeSpec("read", ("raw",), ("table", "rejects"), ("seed",))
TRAIN = NodeSpec("train", ("table",), ("policy",), ("sft", "scratch"))
PLAY = NodeSpec("play", ("policy", "judge"), ("votes",), ("seed",))
REPORT = NodeSpec("report", ("votes", "rejects"), ("page",), ())
NODES = (READ, TRAIN, PLAY, REPORT)
PARAMETERS = {"seed": 0, "sft": {"epochs": 2, "lora": {"r": 8}}, "scratch": "data/scratch", "llm": {}}
RAW = {"a.json": File(bytes=3, modified_ns=5, sha256="aa")}


@dataclasses.dataclass
class State:
    """A synthetic project; `run` records a run of some of its nodes."""

    runs: RunFolder
    registered: Mapping[str, Sequence[NodeSpec]]
    parameters: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(PARAMETERS))
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    contents: dict[tuple[str, str], Content] = dataclasses.field(default_factory=dict)
    reads: dict[str, InputRecord] = dataclasses.field(
        default_factory=lambda: {"raw": InputRecord(files=RAW), "judge": InputRecord(definition={"role": "Offline"})}
    )
    codes: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    unaffecting: tuple[str, ...] = ("scratch", "llm")

    @property
    def recorded_parameters(self) -> dict[str, Any]:
        return self.parameters

    def is_versioned(self, dataset: str) -> bool:
        return dataset not in self.reads

    def latest(self, dataset: str) -> str | None:
        return self.versions.get(dataset)

    def state(self, dataset: str, version: str) -> tuple[int, int]:
        return self.contents[dataset, version][:2]

    def content(self, dataset: str, version: str) -> Content:
        if (dataset, version) not in self.contents:
            raise FileNotFoundError(dataset)
        return self.contents[dataset, version]

    def read(self, dataset: str) -> InputRecord:
        return self.reads[dataset]

    def code(self, node: NodeSpec) -> dict[str, str]:
        return self.codes.get(node.name, {f"pack:{node.name}": "1", "pack:shared": "1"})

    def run(self, run: str, *nodes: NodeSpec, sha256: str = "", **fields: Any) -> RunRecord:
        made = {output for node in nodes for output in node.outputs}
        code = {name: value for node in nodes for name, value in self.code(node).items()}
        record = RunRecord(
            run=run,
            format=FORMAT,
            started=run,
            outcome="done",
            process=Process(host="elsewhere", pid=1, born=0),
            selection=Selection(pipelines=("all",)),
            environment="test",
            parameters=dict(self.parameters),
            git=None,
            python="3",
            platform="",
            packages={},
            nodes={
                node.name: NodeRecord(
                    inputs=node.inputs,
                    outputs=node.outputs,
                    parameters=node.parameters,
                    arguments=dict(node.arguments),
                    code=digest(self.code(node)),
                )
                for node in nodes
            },
            code=code,
            reads={
                one: InputRecord(version=self.versions[one], sha256=self.contents[one, self.versions[one]].sha256)
                if self.is_versioned(one)
                else self.reads[one]
                for node in nodes
                for one in node.inputs
                if one not in made
            },
        ).model_copy(update=fields)
        for node in nodes:
            for output in node.outputs:
                content = Content(10, 20, sha256 or f"{output} {run}")
                version = run if self.is_versioned(output) else None
                record.writes[output] = OutputRecord(
                    version=version, node=node.name, at=run, files=self.reads.get(output, InputRecord()).files,
                    **content._asdict(),
                )  # fmt: skip
                self.versions[output] = run
                self.contents[output, run] = content
        self.runs.save(record)
        return record

    def found(self) -> dict[str, OutputStatus]:
        return {standing.dataset: standing for standing in output_statuses(self, self.runs)}

    def stale(self) -> dict[str, list[str]]:
        """Return the reasons of each stale output."""
        return {
            name: [reason.words for reason in one.reasons] for name, one in self.found().items() if one.state == "stale"
        }

    def plan(self) -> list[tuple[str, list[str]]]:
        return plan_refresh(output_statuses(self, self.runs), self.registered)


@pytest.fixture
def project(tmp_path: Path) -> State:
    """A project whose nodes have all been run once."""
    project = State(RunFolder(tmp_path), {"all": NODES, "training": NODES[:2], "votes": (PLAY,)})
    project.run(FIRST, *NODES)
    return project


def test_outputs_are_fresh_after_a_run(project: State) -> None:
    assert project.stale() == {} and project.plan() == []
    found = project.found()
    assert list(found) == ["table", "rejects", "policy", "votes", "page"]
    assert (found["votes"].state, found["votes"].run, found["votes"].node) == ("fresh", FIRST, "play")


def test_a_newer_input_makes_an_output_and_its_descendants_stale(project: State) -> None:
    project.run(SECOND, TRAIN)
    assert project.stale() == {
        "votes": [f"policy is of {SECOND} now, and was of {FIRST}"],
        "page": ["votes is stale"],
    }
    assert project.plan() == [("all", ["play", "report"])]
    project.run(THIRD, PLAY, REPORT)
    assert project.stale() == {}


def test_an_older_input_makes_an_output_stale(project: State) -> None:
    project.run(SECOND, TRAIN)
    project.run(THIRD, PLAY, REPORT)
    project.versions["policy"] = FIRST
    assert project.stale()["votes"] == [f"policy is of {FIRST} now, and was of {SECOND}"]


def test_an_input_made_again_with_equal_content_leaves_outputs_fresh(project: State) -> None:
    project.run(SECOND, TRAIN, sha256=f"policy {FIRST}")
    assert project.stale() == {} and project.plan() == []
    project.run(THIRD, TRAIN, sha256="else")
    assert project.stale()["votes"] == [f"policy is of {THIRD} now, and was of {FIRST}"]


def test_an_input_without_a_record_counts_by_its_files(project: State) -> None:
    project.versions["policy"] = SECOND
    project.contents["policy", SECOND] = Content(1, 1, f"policy {FIRST}")
    assert project.found()["policy"].state == "no record" and project.stale() == {}
    project.contents["policy", SECOND] = Content(1, 1, "else")
    assert project.stale()["votes"] == [f"policy is of {SECOND} now, and was of {FIRST}"]


def test_an_input_of_unknown_content_counts_by_its_version(project: State) -> None:
    record = project.runs.load(FIRST)
    writes = {name: one for name, one in record.writes.items() if name != "policy"}
    project.runs.save(record.model_copy(update={"writes": writes}))
    assert project.stale() == {}
    project.run(SECOND, TRAIN)
    assert project.stale()["votes"] == [f"policy is of {SECOND} now, and was of {FIRST}"]


def test_only_nodes_that_must_run_are_certainly_stale(project: State) -> None:
    project.codes["read"] = {"pack:read": "2"}
    project.parameters["sft"] = {"epochs": 3}

    def certain(*made: NodeSpec) -> list[str]:
        found = certainly_stale(output_statuses(project, project.runs), made)
        return sorted(one.dataset for one in found)

    assert certain() == ["policy", "rejects", "table"], "votes and page may come out the same"
    project.codes.clear()
    project.reads["judge"] = InputRecord(definition={"role": "Llm"})
    assert certain() == ["policy", "votes"]
    project.run(SECOND, TRAIN, sha256=f"policy {FIRST}")
    assert certain() == ["votes"]
    project.codes["train"] = {"pack:train": "2"}
    assert certain(TRAIN) == ["votes"], "a node that gives another result each time is not run twice"


def test_parameters_by_dotted_key_and_only_those_that_the_node_takes(project: State) -> None:
    project.parameters = {
        "seed": 0, "sft": {"epochs": 2, "lora": {"r": 16}}, "scratch": "elsewhere", "llm": {"x": 1}, "more": 1
    }  # fmt: skip
    assert project.stale() == {
        "policy": ["sft.lora.r was 8, is 16"],
        "votes": ["policy is stale"],
        "page": ["votes is stale"],
    }


def test_parameters_that_change_no_output(project: State) -> None:
    project.unaffecting = ("sft.lora",)
    project.parameters = {**project.parameters, "sft": {**project.parameters["sft"], "lora": {"r": 16}}}
    assert project.stale() == {}
    project.unaffecting = ("sft.lo",)
    assert project.stale()["policy"] == ["sft.lora.r was 8, is 16"]


def test_code_by_the_definitions_that_changed(project: State) -> None:
    project.codes["play"] = {"pack:play": "2", "pack:shared": "1", "pack:new": "1"}
    assert project.stale()["votes"] == ["code has changed: pack:play"]
    project.codes["play"] = {"pack:play": "1"}
    assert project.stale()["votes"] == ["its code uses fewer definitions"]


def test_raw_data_by_its_content(project: State) -> None:
    project.reads["raw"] = InputRecord(files={"a.json": File(bytes=3, modified_ns=99, sha256="aa")})
    assert project.stale() == {}
    project.reads["raw"] = InputRecord(files={**RAW, "b\x1b.json": File(bytes=1, modified_ns=1, sha256="bb")})
    assert project.stale()["table"] == ["raw has changed: b\N{REPLACEMENT CHARACTER}.json"]
    assert project.plan() == [("all", ["read", "train", "play", "report"])]


def test_roles_by_their_definition(project: State) -> None:
    project.reads["judge"] = InputRecord()
    assert project.stale() == {}, "its definition is unknown, as for tables of previous runs"
    project.reads["judge"] = InputRecord(definition={"role": "Llm"})
    assert project.stale()["votes"] == ["judge has changed: role was Offline, is Llm"]


def test_another_host_of_a_named_model_is_the_same_role(project: State) -> None:
    def judge(*hosts: str, **more: str) -> InputRecord:
        return InputRecord(definition={"roles": {"a": {"endpoint": {"hosts": list(hosts), **more}}}})

    project.reads["judge"] = judge("one", model="m")
    project.run(FIRST, *NODES)
    project.reads["judge"] = judge("two", "three", model="m")
    assert project.stale() == {}
    project.reads["judge"] = judge("two", model="n")
    assert project.stale()["votes"] == ["judge has changed: roles.a.endpoint.model was m, is n"]
    project.reads["judge"] = judge("one")
    project.run(SECOND, *NODES)
    project.reads["judge"] = judge("two")
    assert "hosts was" in project.stale()["votes"][0], "the server decides which model it is"


def test_a_local_base_by_its_files_wherever_they_are(project: State) -> None:
    def base(folder: str, sha256: str) -> InputRecord:
        return InputRecord(
            definition={"repo": "r", "folder": folder}, files={"w": File(bytes=1, modified_ns=1, sha256=sha256)}
        )

    project.reads["judge"] = base("/a", "1")
    project.run(FIRST, *NODES)
    project.reads["judge"] = base("/b", "1")
    assert project.stale() == {}
    project.reads["judge"] = base("/a", "2")
    assert project.stale()["votes"] == ["judge has changed: w"]
    project.reads["judge"] = InputRecord(definition={"repo": "r", "folder": "/a"})
    project.run(SECOND, *NODES)
    project.reads["judge"] = base("/a", "2")
    assert project.stale() == {}, "the record does not know the files"


def test_swapped_inputs_and_outputs_make_a_node_stale(project: State) -> None:
    def node(first: str, second: str, *outputs: str) -> NodeSpec:
        arguments = (("train", first), ("test", second), ("sft", "params:sft"))
        return NodeSpec("split", ("rejects", "table"), outputs or ("left", "right"), ("sft",), arguments)

    project.registered = {"all": (READ, node("table", "rejects"))}
    project.run(FIRST, *project.registered["all"])
    assert project.stale() == {}
    project.registered = {"all": (READ, node("rejects", "table"))}
    swapped = ["the argument train was table, is rejects", "the argument test was rejects, is table"]
    assert project.stale() == {"left": swapped, "right": swapped}
    project.registered = {"all": (READ, node("table", "rejects", "right", "left"))}
    order = ["its node gives right, left now, and gave left, right"]
    assert project.stale() == {"right": order, "left": order}


def test_records_of_an_earlier_form_are_not_stale_for_what_they_lack(project: State) -> None:
    record = project.runs.load(FIRST)
    project.runs.save(record.model_copy(update={"format": 1}))
    project.codes["play"] = {"pack:play": "2"}
    assert project.stale() == {}
    assert project.found()["votes"].note == "its code was recorded in an earlier form, and is not compared"
    assert (
        "code: recorded in an earlier form, and not compared" in plan_replay(project.runs.load(FIRST), project).changes
    )
    project.parameters["sft"] = {"epochs": 5}
    assert "policy" in project.stale()


def test_an_altered_output_is_stale_and_a_touched_one_is_not(project: State) -> None:
    before = project.contents["votes", FIRST]
    project.contents["votes", FIRST] = before._replace(modified_ns=77)
    assert project.stale() == {}
    project.contents["votes", FIRST] = before._replace(modified_ns=77, sha256="else")
    assert project.stale() == {
        "votes": ["it was altered after it was written"],
        "page": ["votes was altered after it was read", "votes is stale"],
    }


def test_the_outputs_of_a_node_are_stale_together(project: State) -> None:
    project.contents["rejects", FIRST] = Content(9, 9, "else")
    assert set(project.stale()) == {"table", "rejects", "policy", "votes", "page"}
    assert project.stale()["table"] == ["it is made together with rejects, which is stale"]


def test_an_added_or_removed_input(project: State) -> None:
    more = dataclasses.replace(REPORT, inputs=("votes", "policy"))
    project.registered = {"all": (READ, TRAIN, PLAY, more)}
    assert project.stale() == {"page": ["policy is a new input", "rejects is no longer an input"]}


def test_missing_outputs_and_outputs_without_a_record_are_not_refreshed(project: State) -> None:
    del project.versions["page"]
    project.versions["votes"] = SECOND  # nobody's
    project.contents["votes", SECOND] = Content(1, 1, "else")
    found = project.found()
    assert (found["page"].state, found["votes"].state) == ("missing", "no record")
    assert project.plan() == []
    project.versions["page"] = FIRST
    assert project.stale()["page"] == [f"votes is of {SECOND} now, and was of {FIRST}"]


def test_the_outputs_of_a_running_run_are_not_stale(project: State) -> None:
    project.run(SECOND, TRAIN)
    assert "votes" in project.stale()
    running = project.run(THIRD, PLAY, outcome="running", process=Process.here())
    project.runs.save(running.model_copy(update={"writes": {}}))
    project.versions["votes"] = FIRST
    assert project.found()["votes"].state == "being made"
    project.runs.save(running.model_copy(update={"writes": {}, "replay_of": FIRST}))
    assert project.found()["votes"].state == "stale", "a replay writes elsewhere"
    project.runs.save(running.model_copy(update={"writes": {}, "process": Process(host="x", pid=1, born=0)}))
    assert project.found()["votes"].state == "stale", "it is unknown whether it is still running"


def test_generated_raw_data_is_an_output_until_its_files_are_replaced(tmp_path: Path) -> None:
    world = NodeSpec("world", (), ("raw", "truth"), ("seed",))
    project = State(RunFolder(tmp_path), {"all": (world, READ)})
    project.run(FIRST, world, READ)
    assert project.found()["raw"].state == "fresh" and project.found()["raw"].version is None
    project.parameters["seed"] = 1
    assert set(project.stale()) == {"raw", "truth", "table", "rejects"}
    project.parameters["seed"] = 0
    project.reads["raw"] = InputRecord(files={"mine.json": File(bytes=1, modified_ns=1, sha256="cc")})
    assert "raw" not in project.found(), "it is external data now"
    assert set(project.stale()) == {"table", "rejects"}


def test_the_node_of_the_pipeline_that_made_an_output_is_compared(tmp_path: Path) -> None:
    """Two pipelines have a node of the same name with different inputs."""
    other = dataclasses.replace(PLAY, inputs=("policy",))
    project = State(RunFolder(tmp_path), {"all": NODES, "small": (other,)})
    project.run(FIRST, *NODES)
    assert project.stale() == {}
    project.run(SECOND, TRAIN)
    assert project.plan() == [("all", ["play", "report"])]
    project.run(THIRD, other, selection=Selection(pipelines=("small",)))
    assert project.stale() == {"page": [f"votes is of {THIRD} now, and was of {FIRST}"]}


def test_nodes_of_several_pipelines_are_several_runs(project: State) -> None:
    project.registered = {"first": (READ, TRAIN), "second": (PLAY, REPORT)}
    project.parameters["seed"] = 5
    assert project.plan() == [("first", ["read", "train"]), ("second", ["play", "report"])]


def test_differences_of_trees() -> None:
    assert list(tree_differences({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": 1})) == [
        ("a.b", 1, 2),
        ("d", 1, None),
        ("e", None, 1),
    ]


def test_a_replay_pins_the_recorded_versions(project: State) -> None:
    record = project.runs.load(FIRST)
    whole = plan_replay(record, project)
    assert whole.nodes == NODES and whole.pins == {} and whole.changes == whole.changed_data == ()
    project.run(SECOND, TRAIN)
    part = plan_replay(record, project, ["play"])
    assert (part.nodes, part.outputs, part.pins) == ((PLAY,), ("votes",), {"policy": FIRST})
    later = plan_replay(project.runs.load(SECOND), project)
    assert (later.nodes, later.pins) == ((TRAIN,), {"table": FIRST})


def test_a_replay_lists_all_changes(project: State) -> None:
    record = project.runs.load(FIRST)
    project.codes["train"] = {"pack:train": "2", "pack:shared": "1"}
    project.reads["judge"] = InputRecord(definition={"role": "Llm"})
    project.reads["raw"] = InputRecord(files={})
    found = plan_replay(record, project)
    assert found.changed_data == ("raw has changed: a.json",)
    assert found.changes == ("judge: role was Offline, is Llm", "train: code has changed: pack:train")
    record = record.model_copy(update={"git": Git(revision="a" * 40, changed=("x.py",)), "packages": {"torch": "1"}})
    changes = environment_changes(record, Git(revision="b" * 40, changed=()), "3", "", {"torch": "2"})
    assert changes == [
        "git revision: was aaaaaaaaaa, is bbbbbbbbbb",
        "files not committed then: x.py",
        "torch: was 1, is 2",
    ]


def test_a_replay_without_its_inputs_or_nodes_is_refused(project: State) -> None:
    record = project.runs.load(FIRST)
    project.contents["policy", FIRST] = Content(1, 1, "else")
    with pytest.raises(CannotReplayError, match="of policy, which it read, was altered"):
        plan_replay(record, project, ["play"])
    del project.contents["policy", FIRST]
    with pytest.raises(CannotReplayError, match="of policy, which it read, no longer exists"):
        plan_replay(record, project, ["play"])
    project.registered = {"all": NODES[:2]}
    with pytest.raises(CannotReplayError, match="no node makes the outputs of play, report"):
        plan_replay(record, project)
    project.registered = {}
    with pytest.raises(CannotReplayError, match="the pipeline all is no longer registered"):
        plan_replay(record, project)
    with pytest.raises(CannotReplayError, match="has no node pla"):
        plan_replay(record, project, ["pla"])


def test_only_nodes_with_outputs_are_replayed_of_a_failed_run(project: State) -> None:
    record = project.run(SECOND, READ, TRAIN, outcome="failed")
    project.runs.save(record.model_copy(update={"writes": {"table": record.writes["table"]}}))
    found = plan_replay(project.runs.load(SECOND), project)
    assert (found.nodes, found.outputs) == ((READ,), ("table",))
