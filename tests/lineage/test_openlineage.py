"""Events in OpenLineage's form, sent by its own client, and checked against what its specification 2-0-2 requires."""

from __future__ import annotations

import copy
import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import jsonschema
import pytest
from run_records import make_record, output_record, run_name

from sage_dialog.hooks.errors import RunRefused
from sage_dialog.hooks.openlineage import PRODUCER, OpenLineageEvents
from sage_dialog.lineage.records import File, InputRecord, RunRecord

pytest.importorskip("openlineage.client", reason="the extra `openlineage` is not installed")

NODES = {"split": (("raw",), ("left", "right")), "train": (("left",), ("policy",))}
RAW = InputRecord(files={"a.json": File(bytes=3, modified_ns=5, sha256="aa")})


def record(**fields: Any) -> RunRecord:
    given = make_record(1, NODES, {"raw": RAW}, {"left": "l", "right": "r", "policy": "p"}).model_copy(update=fields)
    times = {"started": "2026-03-01T12:00:02+00:00", "ended": "2026-03-01T12:00:03+00:00"}
    return given.model_copy(
        update={"nodes": {name: node.model_copy(update=times) for name, node in given.nodes.items()}}
    )


class Sender:
    """The hook with the standard client, whose events go to a file."""

    def __init__(self, folder: Path, **transport: Any) -> None:
        self.recorder = SimpleNamespace(record=None)
        self.hook = OpenLineageEvents(self.recorder)  # type: ignore[arg-type]
        self.file = folder / "events/events.jsonl"
        file = {"type": "file", "log_file_path": "events/events.jsonl", "append": True}
        config = {"namespace": "mine", "transport": transport or file}
        self.hook.after_context_created(
            SimpleNamespace(config_loader={"openlineage": config}, project_path=folder, env="e")
        )

    def send(self, *records: RunRecord) -> list[dict[str, Any]]:
        """Return all events after the run has had these records one after another."""
        for number, one in enumerate(records):
            self.recorder.record = one
            (self.hook.before_node_run if number else self.hook.before_pipeline_run)()
        return [json.loads(line) for line in self.file.read_text().splitlines()]


def summary(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["job"]["name"], event["eventType"]) for event in events]


def test_a_run_and_its_nodes_start_and_end_once(tmp_path: Path) -> None:
    begun = record(outcome="running", ended=None, writes={})
    begun = begun.model_copy(
        update={"nodes": {name: node.model_copy(update={"started": None, "ended": None})
                          for name, node in begun.nodes.items()}}
    )  # fmt: skip
    halfway = record(outcome="running", ended=None)
    halfway = halfway.model_copy(
        update={"nodes": {**halfway.nodes, "train": begun.nodes["train"]},
                "writes": {name: one for name, one in halfway.writes.items() if name != "policy"}}
    )  # fmt: skip
    events = Sender(tmp_path).send(begun, begun, halfway, record(), record())
    assert summary(events) == [
        ("demo", "START"), ("demo.split", "START"), ("demo.split", "COMPLETE"),
        ("demo.train", "START"), ("demo.train", "COMPLETE"), ("demo", "COMPLETE"),
    ]  # fmt: skip
    for event in events:
        assert event["producer"] == PRODUCER and event["job"]["namespace"] == "mine"
        assert event["schemaURL"].startswith("https://openlineage.io/spec/")
    ids = {event["job"]["name"]: event["run"]["runId"] for event in events}
    assert len(set(ids.values())) == 3
    assert events[1]["run"]["facets"]["parent"]["run"]["runId"] == ids["demo"]


def test_datasets_have_their_versions_and_sizes(tmp_path: Path) -> None:
    events = {(event["job"]["name"], event["eventType"]): event for event in Sender(tmp_path).send(record())}
    split = events["demo.split", "COMPLETE"]
    assert [one["name"] for one in split["inputs"]] == ["raw"]
    assert len(split["inputs"][0]["facets"]["version"]["datasetVersion"]) == 64, "the digest of its files"
    left = split["outputs"][0]
    assert left["name"] == "left" and left["facets"]["version"]["datasetVersion"] == run_name(1)
    assert left["outputFacets"]["outputStatistics"]["size"] == 10
    (read,) = events["demo.train", "START"]["inputs"]
    assert read["name"] == "left" and read["facets"]["version"]["datasetVersion"] == run_name(1)
    assert not events["demo", "START"]["outputs"] and len(events["demo", "COMPLETE"]["outputs"]) == 3


@pytest.mark.parametrize(("outcome", "state"), [("failed", "FAIL"), ("stopped", "ABORT")])
def test_a_failed_run_says_why(tmp_path: Path, outcome: str, state: str) -> None:
    writes = {"left": output_record(run_name(1), "l", "split"), "right": output_record(run_name(1), "r", "split")}
    events = Sender(tmp_path).send(record(outcome=outcome, error="ValueError: no such thing", writes=writes))
    assert summary(events)[-2:] == [("demo.train", state), ("demo", state)]
    assert events[-1]["run"]["facets"]["errorMessage"]["message"] == "ValueError: no such thing"


def named(*required: str, **fields: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with required texts, and fields of other types."""
    texts = {name: {"type": "string", "minLength": 1} for name in required}
    return {"type": "object", "properties": {**texts, **fields}, "required": [*required]}


def facets(**known: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of facets: all have a producer and a schema; the client adds its own to the known ones."""
    base = named("_producer", "_schemaURL")
    return {
        "type": "object",
        "properties": {name: {"allOf": [base, facet]} for name, facet in known.items()},
        "additionalProperties": base,
    }


RUN, JOB = named("runId"), named("namespace", "name")
VERSION = facets(version=named("datasetVersion"))
RUN_FACETS = facets(
    parent=named(run=RUN, job=JOB) | {"required": ["_producer", "_schemaURL", "run", "job"]},
    processing_engine=named("version", "name"),
    errorMessage=named("message", "programmingLanguage"),
)
STATISTICS = facets(outputStatistics=named(size={"type": "integer", "minimum": 0}, rowCount={"type": "integer"}))
DATASET = named("namespace", "name", facets=VERSION, inputFacets=facets(), outputFacets=STATISTICS)
EVENT = named(
    "eventTime",
    "producer",
    "schemaURL",
    eventType={"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
    run=named("runId", facets=RUN_FACETS),
    job=named("namespace", "name", facets=facets(jobType=named("processingType", "integration", "jobType"))),
    inputs={"type": "array", "items": DATASET},
    outputs={"type": "array", "items": DATASET},
)
EVENT["required"] += ["run", "job", "eventType"]
"""What the specification requires of a run's events; its schema is not part of the client's package."""


@pytest.mark.parametrize("outcome", ["done", "failed", "stopped"])
def test_events_have_what_the_specification_requires(tmp_path: Path, outcome: str) -> None:
    error = None if outcome == "done" else "ValueError: no such thing"
    events = Sender(tmp_path).send(record(outcome=outcome, error=error))
    assert len(events) == 6
    for event in events:
        jsonschema.validate(event, EVENT)
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        run = event["run"]
        parents = [run["facets"]["parent"]["run"]] if "parent" in run["facets"] else []
        assert all(str(UUID(one["runId"])) == one["runId"] for one in (run, *parents))
        facet_schemas = [one["_schemaURL"] for one in run["facets"].values()]
        for uri in (event["producer"], event["schemaURL"], *facet_schemas):
            assert urlsplit(uri).scheme in ("https", "urn")
        assert event["schemaURL"].endswith("/2-0-2/OpenLineage.json#/$defs/RunEvent")
    for job in ("demo", "demo.split", "demo.train"):
        states = [event["eventType"] for event in events if event["job"]["name"] == job]
        assert states[0] == "START" and len(states) == 2, "each run has one start and one end"


def test_an_event_without_a_required_field_is_found(tmp_path: Path) -> None:
    event = Sender(tmp_path).send(record())[-1]
    for path in (("run", "runId"), ("job", "name"), ("outputs", 0, "namespace"), ("eventTime",), ("producer",)):
        broken = copy.deepcopy(event)
        place: Any = broken
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        with pytest.raises(jsonschema.ValidationError, match=f"'{path[-1]}' is a required property"):
            jsonschema.validate(broken, EVENT)


def test_an_interrupted_run_is_aborted_when_its_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[Any] = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    sender = Sender(tmp_path)
    sender.send(record(outcome="running", ended=None))
    sender.recorder.record = record(outcome="stopped", error="it was interrupted")
    at_exit[-1]()
    assert summary([json.loads(line) for line in sender.file.read_text().splitlines()])[-1] == ("demo", "ABORT")


def test_a_replay_sends_nothing_and_an_unreachable_server_stops_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(tmp_path)
    sender.recorder.record = record(replay_of=run_name(2))
    sender.hook.before_pipeline_run()
    assert not sender.file.exists()
    away = Sender(tmp_path, type="http", url="http://127.0.0.1:9", timeout=0.1, retry={"total": 0})
    away.recorder.record = record()
    away.hook.before_pipeline_run()
    assert "6 OpenLineage events of this run were not sent." in caplog.text


def test_an_unknown_transport_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="Correct `transport:` there"):
        Sender(tmp_path, type="nothing")
