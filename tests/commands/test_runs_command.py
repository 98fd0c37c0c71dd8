"""`kedro sage runs`, `show`, `diff`, `tag` and `prune` on the command line."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from kedro.io import Version
from run_records import make_record, run_name

from sage_dialog.cli import sage
from sage_dialog.commands.console import format_duration
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.lineage.record_diff import record_differences
from sage_dialog.lineage.records import File, Git, InputRecord, Process, Selection, Spent


@pytest.fixture
def type_in(configured: Path, tmp_path: Path) -> Any:
    """Run a command on a project with data in `tmp_path/data`."""
    (tmp_path / "conf").symlink_to(configured / "conf")

    def typed(*arguments: str, answer: str | None = None) -> Result:
        project = SimpleNamespace(project_path=tmp_path)
        return CliRunner().invoke(sage, [*arguments], obj=project, input=answer, terminal_width=200)

    return typed


def test_runs_lists_the_latest_runs_with_their_outcome(type_in, keep, runs):
    keep(1)
    keep(2, outcome="running", ended=None)
    keep(3, outcome="failed", error="[red]ValueError", selection=Selection(pipelines=("sage_2",), nodes=("search",)))
    for day in range(4, 24):
        keep(day)
    runs.tag(run_name(3), "paper")
    few = type_in("runs")
    assert few.exit_code == 0 and "3 earlier runs: --all" in few.output and run_name(3) not in few.output
    lines = {
        json.loads(line)["run"]: json.loads(line) for line in type_in("runs", "--all", "--json").output.splitlines()
    }
    assert len(lines) == 23 and list(lines) == sorted(lines, reverse=True)
    assert lines[run_name(1)]["seconds"] == 65 and lines[run_name(1)]["outcome"] == "done"
    assert lines[run_name(2)]["outcome"] == "unknown" and lines[run_name(2)]["seconds"] is None
    failed = lines[run_name(3)]
    assert (failed["outcome"], failed["error"], failed["tags"]) == ("failed", "[red]ValueError", ["paper"])
    assert failed["what"] == "sage_2; nodes search"
    assert "sage_2; nodes search" in " ".join(type_in("runs", "--all").output.split())


def test_a_replay_is_listed_by_its_run_without_pins(type_in, keep):
    pins = {f"table_{number}": run_name(1) for number in range(9)}
    nodes = tuple(f"node_{number}" for number in range(9))
    keep(2, selection=Selection(pipelines=("demo",), nodes=nodes, load_versions=pins), replay_of=run_name(1))
    what = json.loads(type_in("runs", "--json").output)["what"]
    assert what == f"demo; nodes node_0, node_1, node_2, …; replay of {run_name(1)}"


def test_without_runs_the_command_to_run_is_printed(type_in):
    assert "kedro run --pipelines demo" in type_in("runs").output
    found = type_in("show")
    assert found.exit_code == 1 and "none yet" in found.output


def test_only_the_records_of_listed_runs_are_read(type_in, keep, runs, monkeypatch):
    for day in range(1, 29):
        keep(day)
    opened = []
    load = type(runs).load
    monkeypatch.setattr(type(runs), "load", lambda self, run: opened.append(run) or load(self, run))
    assert type_in("runs").exit_code == 0
    assert len(opened) == 20


def test_show_has_every_section_and_prints_markup_as_text(type_in, keep):
    keep(
        1,
        {"play": (("sage_1", "judge", "dumps"), ("trajectories_1",))},
        {
            "sage_1": InputRecord(version=run_name(1), sha256="5a1" * 8),
            "judge": InputRecord(definition={"role": "a.b.Rules[bold]", "endpoint": {"model": "some-model"}}),
            "dumps": InputRecord(files={"RC_1": File(bytes=1234, modified_ns=1, sha256="x")}),
        },
        {"trajectories_1": "7ab" * 8},
        parameters={"seed": 7},
        spent={"judge": Spent(calls=12, tokens=3456, money=0.5)},
        answered={"judge": ("some-model-2026",)},
        git=Git(revision="f" * 40, changed=("conf/base/x.yml",)),
        error="it [link]broke[/link]",
        outcome="failed",
    )
    output = type_in("show", "latest").output
    for part in ("failed: it [link]broke[/link]", "ffffffffffff, 1 files changed: conf/base/x.yml", run_name(1),
                 "5a15a15a15a1", "Rules[bold], some-model", "1 files, 1,234 bytes", "7ab7ab7ab7ab", "3,456",
                 "some-model-2026", "numpy"):  # fmt: skip
        assert part in output, part
    assert any(line.split() == ["seed", "7", "0"] for line in output.splitlines())
    whole = json.loads(type_in("show", "latest", "--json").output)
    assert whole["status"] == "failed" and whole["parameters"] == {"seed": 7} and whole["tags"] == []


def test_diff_by_exit_code_and_section(type_in, keep):
    nodes = {"n": (("in",), ("out",))}
    known = {"in": InputRecord(version=run_name(1), sha256="i")}
    keep(1, nodes, known, {"out": "same"}, code={"m:f": "1"}, parameters={"a": {"b": 1, "c": [1]}})
    keep(2, nodes, {"in": InputRecord(version=run_name(2), sha256="i")}, {"out": "same"}, code={"m:f": "1"},
         parameters={"a": {"b": 1, "c": [1]}})  # fmt: skip
    keep(3, nodes, {"in": InputRecord(version=run_name(2), sha256="other")}, {"out": "new"},
         code={"m:f": "2", "m:g": "1"}, parameters={"a": {"b": 2, "c": [1]}}, packages={"numpy": "3"},
         environment="test")  # fmt: skip
    keep(4, nodes, {"in": InputRecord(version=run_name(4))}, {"out": "same"}, code={"m:f": "1"},
         parameters={"a": {"b": 1, "c": [1]}})  # fmt: skip
    same = type_in("diff", run_name(1), run_name(2))
    assert same.exit_code == 0 and "outputs: 1 in both, all of the same content" in same.output
    other = type_in("diff", run_name(1), run_name(3), "--json")
    assert other.exit_code == 1
    found = {
        (each["section"], each["name"]): (each["first"], each["second"])
        for each in json.loads(other.output)["differences"]
    }
    assert set(found) == {
        ("what was run", "environment"), ("parameters", "a.b"), ("inputs", "in"), ("code", "m:f"), ("code", "m:g"),
        ("packages", "numpy"), ("outputs", "out"),
    }  # fmt: skip
    assert found["parameters", "a.b"] == ("1", "2") and found["code", "m:g"] == ("–", "1")
    assert type_in("diff", run_name(1), run_name(3)).exit_code == 1
    assert type_in("diff", run_name(1), run_name(4)).exit_code == 2
    missing = type_in("diff", run_name(1), "nothing")
    assert missing.exit_code == 2 and "No run is called 'nothing'" in missing.output


def test_runs_of_different_nodes_are_compared_where_both_have_them():
    both = {"a": ((), ("table",)), "b": (("table",), ("out",))}
    whole = make_record(1, both, contents={"table": "t", "out": "o"}, code={"m:f": "1", "m:only": "1"})
    table = InputRecord(version=run_name(1), sha256="t")
    part = make_record(2, {"b": (("table",), ("out",))}, {"table": table}, {"out": "o"}, code={"m:f": "1"})
    found = record_differences(whole, part)
    assert [(each.section, each.name, each.first) for each in found] == [("what was run", "nodes in one run only", "a")]


def test_files_of_raw_data_differ_one_by_one():
    def reads(**digests: str | None) -> dict[str, InputRecord]:
        return {
            "dumps": InputRecord(files={name: File(bytes=1, modified_ns=1, sha256=d) for name, d in digests.items()})
        }

    nodes = {"n": (("dumps",), ("out",))}
    one, other = (
        make_record(1, nodes, reads(a="1", b="1", r=None)),
        make_record(2, nodes, reads(a="1", b="2", c="1", r=None)),
    )
    assert [(each.name, each.certain) for each in record_differences(one, other)] == [
        ("dumps/b", True),
        ("dumps/c", True),
    ]


def test_a_run_is_tagged_and_found_by_its_tag(type_in, keep, runs):
    keep(1)
    assert "is tagged paper" in type_in("tag", "latest", "paper").output
    assert json.loads(type_in("show", "paper", "--json").output)["tags"] == ["paper"]
    assert type_in("tag", "--remove", "paper").exit_code == 0 and runs.tags() == {}
    assert type_in("tag", "nothing", "name").exit_code == 1
    assert type_in("tag", "latest").exit_code == 2
    refused = type_in("tag", "latest", "2026-01")
    assert refused.exit_code == 1 and "cannot be a tag" in refused.output


def test_prune_lists_asks_and_removes(type_in, keep, tmp_path):
    path = tmp_path / "data/02_intermediate/situations.parquet"
    for day in (1, 2, 3):
        AtomicParquet(filepath=str(path), version=Version(None, run_name(day))).save(pd.DataFrame({"n": [1]}))
    versions = lambda: sorted(int(each.name[8:10]) for each in path.glob("2*"))  # noqa: E731
    (made := tmp_path / "data/replays" / run_name(1)).mkdir(parents=True)
    keep(1)
    keep(3)
    result = type_in("prune", "--keep", "1", answer="n\n")
    assert result.exit_code == 1 and versions() == [1, 2, 3]
    for what in ("versions: situations", "replays: outputs", "records: of runs without remaining versions"):
        assert what in result.output
    planned = json.loads(type_in("prune", "--keep", "1", "--json").output)
    assert [each["path"] for each in planned["replays"]] == [str(made)]
    assert [each["version"] for each in planned["versions"]] == [run_name(1), run_name(2)] and planned["bytes"] > 100
    assert versions() == [1, 2, 3]
    assert "removed: 4" in type_in("prune", "--keep", "1", "--yes").output and versions() == [3] and not made.exists()
    assert "Nothing to remove" in type_in("prune").output


def test_prune_prints_only_json_with_that_option(type_in, keep, runs, monkeypatch):
    from sage_dialog.lineage import pruning

    plan = pruning.plan_prune
    monkeypatch.setattr(pruning, "plan_prune", lambda *given: print("a warning") or plan(*given))
    assert set(json.loads(type_in("prune", "--json").stdout)) >= {"versions", "work", "replays", "bytes"}


def test_prune_keeps_work_while_a_run_is_running(type_in, keep, tmp_path):
    keep(1, outcome="running", ended=None, process=Process.here())
    work = tmp_path / "data/scratch/search/sage_1/0123456789abcdef0123"
    work.mkdir(parents=True)
    assert "is running" in type_in("prune", "--scratch", "0", "--yes").output and work.exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.4, "59.4 s"), (61, "1 min 01 s"), (3660, "1 h 01 min"), (90000, "25 h 00 min")],
)
def test_durations_are_formatted(seconds, text):
    assert format_duration(seconds) == text


def test_prune_removes_old_responses_only_with_the_option(type_in, tmp_path):
    from sage_dialog.llm import event_loop as loop
    from sage_dialog.llm.requests import ChatRequest, LLMResponse
    from sage_dialog.llm.response_cache import ResponseCache

    path = tmp_path / "data/response_cache/responses.sqlite"
    response_cache = ResponseCache(path)
    for text in ("old", "new"):
        request = ChatRequest("judge", "m", ({"role": "user", "content": text},))
        loop.run(response_cache.claim(request))
        loop.run(response_cache.save(request, LLMResponse(text, 1, 1), None))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE responses SET created_at = created_at - 40 * 86400 WHERE text = 'old'")
    assert "Nothing to remove" in type_in("prune", "--yes").output and response_cache.count() == 2
    result = type_in("prune", "--response-cache", "30", answer="n\n")
    assert "responses of language models" in result.output and response_cache.count() == 2
    assert type_in("prune", "--response-cache", "30", "--yes").exit_code == 0
    assert [entry["response"] for entry in response_cache.entries()] == ["new"]
    response_cache.close()
