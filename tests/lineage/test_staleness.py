"""What makes an output stale, by synthetic records; and which nodes make fresh again what is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sage_dialog.lineage.code import digest
from sage_dialog.lineage.content import Content
from sage_dialog.lineage.records import (
    File,
    Git,
    NodeRecord,
    Process,
    Read,
    RunFolder,
    RunRecord,
    Selection,
    Written,
)
from sage_dialog.lineage.replay_plan import CannotReplayError, again, surroundings
from sage_dialog.lineage.staleness import NodeNow, Standing, differences, plan, standings

FIRST, SECOND, THIRD = (f"2026-11-20T0{hour}.00.00.000Z" for hour in (1, 2, 3))

READ = NodeNow("read", ("raw",), ("table", "rejects"), ("seed",))
TRAIN = NodeNow("train", ("table",), ("policy",), ("sft", "scratch"))
PLAY = NodeNow("play", ("policy", "judge"), ("votes",), ("seed",))
REPORT = NodeNow("report", ("votes", "rejects"), ("page",), ())
NODES = (READ, TRAIN, PLAY, REPORT)
PARAMETERS = {"seed": 0, "sft": {"epochs": 2, "lora": {"r": 8}}, "scratch": "data/scratch", "llm": {}}
RAW = {"a.json": File(bytes=3, modified_ns=5, sha256="aa")}


@dataclasses.dataclass
class Present:
    """A project whose runs are made up; `run` is a run of some of its nodes."""

    runs: RunFolder
    flows: Mapping[str, Sequence[NodeNow]]
    parameters: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(PARAMETERS))
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    contents: dict[tuple[str, str], Content] = dataclasses.field(default_factory=dict)
    reads: dict[str, Read] = dataclasses.field(
        default_factory=lambda: {"raw": Read(files=RAW), "judge": Read(made={"role": "Offline"})}
    )
    codes: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

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

    def read(self, dataset: str) -> Read:
        return self.reads[dataset]

    def code(self, node: NodeNow) -> dict[str, str]:
        return self.codes.get(node.name, {f"pack:{node.name}": "1", "pack:shared": "1"})

    def run(self, run: str, *nodes: NodeNow, sha256: str = "", **fields: Any) -> RunRecord:
        made = {output for node in nodes for output in node.outputs}
        code = {name: value for node in nodes for name, value in self.code(node).items()}
        record = RunRecord(
            run=run,
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
                    inputs=node.inputs, outputs=node.outputs, parameters=node.parameters, code=digest(self.code(node))
                )
                for node in nodes
            },
            code=code,
            reads={
                one: Read(version=self.versions[one], sha256=self.contents[one, self.versions[one]].sha256)
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
                record.writes[output] = Written(
                    version=version, node=node.name, at=run, files=self.reads.get(output, Read()).files,
                    **content._asdict(),
                )  # fmt: skip
                self.versions[output] = run
                self.contents[output, run] = content
        self.runs.keep(record)
        return record

    def found(self) -> dict[str, Standing]:
        return {standing.dataset: standing for standing in standings(self, self.runs)}

    def stale(self) -> dict[str, list[str]]:
        """Why, in words, of each output that is stale."""
        return {
            name: [reason.words for reason in one.reasons] for name, one in self.found().items() if one.state == "stale"
        }

    def plan(self) -> list[tuple[str, list[str]]]:
        return plan(standings(self, self.runs), self.flows)


@pytest.fixture
def present(tmp_path: Path) -> Present:
    """All has been run once."""
    present = Present(RunFolder(tmp_path), {"all": NODES, "training": NODES[:2], "votes": (PLAY,)})
    present.run(FIRST, *NODES)
    return present


def test_what_was_just_made_is_fresh(present: Present) -> None:
    assert present.stale() == {} and present.plan() == []
    found = present.found()
    assert list(found) == ["table", "rejects", "policy", "votes", "page"]
    assert (found["votes"].state, found["votes"].run, found["votes"].node) == ("fresh", FIRST, "play")


def test_what_stands_on_an_earlier_version_is_stale_and_all_behind_it(present: Present) -> None:
    present.run(SECOND, TRAIN)
    assert present.stale() == {
        "votes": [f"policy is of {SECOND} now, and was of {FIRST}"],
        "page": ["votes is stale"],
    }
    assert present.plan() == [("all", ["play", "report"])]
    present.run(THIRD, PLAY, REPORT)
    assert present.stale() == {}


def test_what_stands_on_a_later_version_that_was_moved_away_is_stale(present: Present) -> None:
    present.run(SECOND, TRAIN)
    present.run(THIRD, PLAY, REPORT)
    present.versions["policy"] = FIRST
    assert present.stale()["votes"] == [f"policy is of {FIRST} now, and was of {SECOND}"]


def test_by_version_also_where_the_content_is_the_same(present: Present) -> None:
    present.run(SECOND, TRAIN, sha256=f"policy {FIRST}")
    assert present.stale()["votes"] == [f"policy is of {SECOND} now, and was of {FIRST}, the same content"]


def test_parameters_by_dotted_key_and_only_those_that_the_node_takes(present: Present) -> None:
    present.parameters = {
        "seed": 0, "sft": {"epochs": 2, "lora": {"r": 16}}, "scratch": "elsewhere", "llm": {"x": 1}, "more": 1
    }  # fmt: skip
    assert present.stale() == {
        "policy": ["sft.lora.r was 8, is 16"],
        "votes": ["policy is stale"],
        "page": ["votes is stale"],
    }


def test_code_by_the_definitions_that_changed(present: Present) -> None:
    present.codes["play"] = {"pack:play": "2", "pack:shared": "1", "pack:new": "1"}
    assert present.stale()["votes"] == ["code has changed: pack:play"]
    present.codes["play"] = {"pack:play": "1"}
    assert present.stale()["votes"] == ["its code uses less than it did"]


def test_raw_data_by_its_content(present: Present) -> None:
    present.reads["raw"] = Read(files={"a.json": File(bytes=3, modified_ns=99, sha256="aa")})
    assert present.stale() == {}
    present.reads["raw"] = Read(files={**RAW, "b\x1b.json": File(bytes=1, modified_ns=1, sha256="bb")})
    assert present.stale()["table"] == ["raw has changed: b\N{REPLACEMENT CHARACTER}.json"]
    assert present.plan() == [("all", ["read", "train", "play", "report"])]


def test_roles_by_what_they_are(present: Present) -> None:
    present.reads["judge"] = Read()
    assert present.stale() == {}, "nothing is known of it, as of tables of earlier runs"
    present.reads["judge"] = Read(made={"role": "Llm"})
    assert present.stale()["votes"] == ["judge is another: role was Offline, is Llm"]


def test_what_someone_has_altered_is_stale_and_what_was_only_touched_is_not(present: Present) -> None:
    before = present.contents["votes", FIRST]
    present.contents["votes", FIRST] = before._replace(modified_ns=77)
    assert present.stale() == {}
    present.contents["votes", FIRST] = before._replace(modified_ns=77, sha256="else")
    assert present.stale() == {"votes": ["it has changed since it was written"], "page": ["votes is stale"]}


def test_what_one_node_makes_is_stale_together(present: Present) -> None:
    present.contents["rejects", FIRST] = Content(9, 9, "else")
    assert set(present.stale()) == {"table", "rejects", "policy", "votes", "page"}
    assert present.stale()["table"] == ["it is made together with rejects, which is stale"]


def test_an_input_that_came_or_went(present: Present) -> None:
    more = dataclasses.replace(REPORT, inputs=("votes", "policy"))
    present.flows = {"all": (READ, TRAIN, PLAY, more)}
    assert present.stale() == {"page": ["it is made from policy now, too", "it is not made from rejects any more"]}


def test_what_is_missing_or_of_no_run_is_said_and_left(present: Present) -> None:
    del present.versions["page"]
    present.versions["votes"] = SECOND  # nobody's
    found = present.found()
    assert (found["page"].state, found["votes"].state) == ("missing", "no record")
    assert present.plan() == []
    present.versions["page"] = FIRST
    assert present.stale()["page"] == [f"votes is of {SECOND} now, and was of {FIRST}"]


def test_what_a_run_under_way_makes_is_not_stale(present: Present) -> None:
    present.run(SECOND, TRAIN)
    assert "votes" in present.stale()
    under_way = present.run(THIRD, PLAY, outcome="running", process=Process.here())
    present.runs.keep(under_way.model_copy(update={"writes": {}}))
    present.versions["votes"] = FIRST
    assert present.found()["votes"].state == "being made"
    present.runs.keep(under_way.model_copy(update={"writes": {}, "replay_of": FIRST}))
    assert present.found()["votes"].state == "stale", "a replay writes elsewhere"
    present.runs.keep(under_way.model_copy(update={"writes": {}, "process": Process(host="x", pid=1, born=0)}))
    assert present.found()["votes"].state == "stale", "nobody can tell whether it is still under way"


def test_generated_raw_data_is_an_output_until_its_files_are_others(tmp_path: Path) -> None:
    world = NodeNow("world", (), ("raw", "truth"), ("seed",))
    present = Present(RunFolder(tmp_path), {"all": (world, READ)})
    present.run(FIRST, world, READ)
    assert present.found()["raw"].state == "fresh" and present.found()["raw"].version is None
    present.parameters["seed"] = 1
    assert set(present.stale()) == {"raw", "truth", "table", "rejects"}
    present.parameters["seed"] = 0
    present.reads["raw"] = Read(files={"mine.json": File(bytes=1, modified_ns=1, sha256="cc")})
    assert "raw" not in present.found(), "it is data from outside now"
    assert set(present.stale()) == {"table", "rejects"}


def test_a_node_of_the_pipeline_that_made_it(tmp_path: Path) -> None:
    """Two pipelines have a node of one name, with other inputs."""
    other = dataclasses.replace(PLAY, inputs=("policy",))
    present = Present(RunFolder(tmp_path), {"all": NODES, "small": (other,)})
    present.run(FIRST, *NODES)
    assert present.stale() == {}
    present.run(SECOND, TRAIN)
    assert present.plan() == [("all", ["play", "report"])]
    present.run(THIRD, other, selection=Selection(pipelines=("small",)))
    assert present.stale() == {"page": [f"votes is of {THIRD} now, and was of {FIRST}"]}


def test_nodes_that_no_one_pipeline_has_are_run_one_after_the_other(present: Present) -> None:
    present.flows = {"first": (READ, TRAIN), "second": (PLAY, REPORT)}
    present.parameters["seed"] = 5
    assert present.plan() == [("first", ["read", "train"]), ("second", ["play", "report"])]


def test_differences_of_trees() -> None:
    assert list(differences({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": 1})) == [
        ("a.b", 1, 2),
        ("d", 1, None),
        ("e", None, 1),
    ]


def test_what_is_repeated_reads_the_versions_of_then(present: Present) -> None:
    record = present.runs.read(FIRST)
    whole = again(record, present)
    assert whole.nodes == NODES and whole.pins == {} and whole.named == whole.changed == ()
    present.run(SECOND, TRAIN)
    part = again(record, present, ["play"])
    assert (part.nodes, part.outputs, part.pins) == ((PLAY,), ("votes",), {"policy": FIRST})
    later = again(present.runs.read(SECOND), present)
    assert (later.nodes, later.pins) == ((TRAIN,), {"table": FIRST})


def test_what_is_not_as_it_was_is_named(present: Present) -> None:
    record = present.runs.read(FIRST)
    present.codes["train"] = {"pack:train": "2", "pack:shared": "1"}
    present.reads["judge"] = Read(made={"role": "Llm"})
    present.reads["raw"] = Read(files={})
    found = again(record, present)
    assert found.changed == ("raw has changed: a.json",)
    assert found.named == ("judge: role was Offline, is Llm", "code of train: pack:train")
    record = record.model_copy(update={"git": Git(revision="a" * 40, changed=("x.py",)), "packages": {"torch": "1"}})
    told = surroundings(record, Git(revision="b" * 40, changed=()), "3", "", {"torch": "2"})
    assert told == [
        "git revision: was aaaaaaaaaa, is bbbbbbbbbb",
        "files not committed then: x.py",
        "torch: was 1, is 2",
    ]


def test_what_is_gone_cannot_be_repeated(present: Present) -> None:
    record = present.runs.read(FIRST)
    present.contents["policy", FIRST] = Content(1, 1, "else")
    with pytest.raises(CannotReplayError, match="of policy, which it read, has been altered"):
        again(record, present, ["play"])
    del present.contents["policy", FIRST]
    with pytest.raises(CannotReplayError, match="of policy, which it read, is not there any more"):
        again(record, present, ["play"])
    present.flows = {"all": NODES[:2]}
    with pytest.raises(CannotReplayError, match="no node makes what play, report made"):
        again(record, present)
    present.flows = {}
    with pytest.raises(CannotReplayError, match="there is no pipeline all"):
        again(record, present)
    with pytest.raises(CannotReplayError, match="has no node pla"):
        again(record, present, ["pla"])


def test_what_one_node_made_half_is_repeated_of_a_run_that_failed(present: Present) -> None:
    record = present.run(SECOND, READ, TRAIN, outcome="failed")
    present.runs.keep(record.model_copy(update={"writes": {"table": record.writes["table"]}}))
    found = again(present.runs.read(SECOND), present)
    assert (found.nodes, found.outputs) == ((READ,), ("table",))
