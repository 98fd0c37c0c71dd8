"""`kedro sage chat` from the catalog to the screen, on tiny policies that have learnt the form."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from kedro.framework.startup import bootstrap_project
from kedro.io import Version
from starlette.applications import Starlette
from starlette.testclient import TestClient

from sage_dialog.commands.chat import chat
from sage_dialog.commands.project import Project
from sage_dialog.commands.serve import serve
from sage_dialog.commands.talking import example_messages
from sage_dialog.config import Parameters, Steering
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import from_rows
from sage_dialog.datasets.engines import EngineDataset
from sage_dialog.datasets.external_policies import ExternalPolicies
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.sac import Chain, parse
from sage_dialog.schemas import SITUATIONS

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from block_writers import save_policy  # noqa: E402


@pytest.fixture
def talk(
    configured: Path, policies: dict[str, Policy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs the command on lines; the policies are those of the catalog."""
    for policy in policies.values():
        save_policy(policy, tmp_path / "data")
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    metadata = bootstrap_project(configured)

    def run(*options: str, lines: str = "x\n") -> Result:
        return CliRunner().invoke(chat, ["--env", "test", *options], input=lines, obj=metadata)

    return run


def test_a_script_talks_steers_picks_and_saves(talk: Callable[..., Result], tmp_path: Path) -> None:
    lines = ["x", "/fix a_motivation humor", "/topics dogs, cats", "xx", "/candidates", "2", f"/save {tmp_path}/talk"]
    result = talk("--seed", "1", "--top-k", "20", lines="\n".join(lines))
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "talk.jsonl").read_text())
    roles = [message["role"] for message in record["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    steered = parse(record["messages"][-1]["content"])
    assert isinstance(steered, Chain)
    assert (steered.action.motivation, steered.action.topics) == ("humor", ("dogs", "cats"))
    assert record["chat"]["seed"] == 1 and record["chat"]["settings"]["sampling"]["top_k"] == 20
    printed = result.stdout.splitlines()
    assert sum(line[:3].strip().isdecimal() and "humor ·" in line for line in printed) == 3  # candidates in conf/test
    assert f"{printed[-2]} {printed[-1]}" == record["messages"][-1]["content"]
    assert "Warning" not in result.output

    repeated = talk("--seed", "1", "--top-k", "20", lines="\n".join(lines[:-1]))
    assert repeated.stdout == result.stdout
    assert talk("--seed", "6", "--top-k", "20", lines="\n".join(lines[:-1])).stdout != result.stdout


def test_no_library_warns(talk: Callable[..., Result], recwarn: pytest.WarningsRecorder) -> None:
    assert talk().exit_code == 0
    shown = [str(each.message) for each in recwarn if not issubclass(each.category, DeprecationWarning)]
    assert shown == []


def test_annotations_of_another_schema_only_leave_labels_uncompleted(
    talk: Callable[..., Result], tmp_path: Path
) -> None:
    entry = AtomicParquet(
        filepath=str(tmp_path / "data/03_primary/annotations.parquet"),
        version=Version(None, "2026-01-01T00.00.00.000Z"),
    )
    entry.save(pd.DataFrame({"role": ["user"]}))
    result = talk()
    assert result.exit_code == 0 and result.stdout
    assert "Tab completes no labels, because annotations cannot be read: Validation failed" in result.stderr


def test_an_external_policy_of_the_catalog_talks_and_is_steered(
    talk: Callable[..., Result], policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Project.__init__

    def open_with_external_policies(project: Project, *given: object, **named: object) -> None:
        opened(project, *given, **named)  # type: ignore[arg-type]
        whole = str(policies["sage_0"].path)
        theirs = {"theirs": {"folder": whole, "blocks": True}, "form": {"folder": whole, "blocks": True}}
        theirs["form"]["block_form"] = "(<a_motivation>) "
        project.catalog["external_policies"] = ExternalPolicies(policies=theirs)

    monkeypatch.setattr(Project, "__init__", open_with_external_policies)
    result = talk("--policy", "theirs", lines="/fix a_motivation humor\nx\n")
    assert result.exit_code == 0, result.output
    assert "{a_motivation: humor, " in result.stdout
    refused = talk("--policy", "form", lines="/boost a_motivation humor 4\n")
    assert refused.exit_code == 1 and "form cannot be steered: its blocks have a form of their own" in refused.stderr


def test_first_messages_are_held_out_situations(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_DATA", str(tmp_path))
    project = Project(bootstrap_project(configured), "test")
    assert example_messages(project, 2) == []
    rows = [
        {"situation_id": str(number), "split": split, "emotion": "sad", "text": f"{split} {number}"}
        for number, split in enumerate(["train", "test", "valid", "test", "test", "train"])
    ]
    path = str(tmp_path / "02_intermediate/situations.parquet")
    AtomicParquet(filepath=path, version=Version(None, "2026-01-01T00.00.00.000Z")).save(from_rows(rows, SITUATIONS))
    examples = example_messages(project, 2)
    assert len(examples) == 2 and set(examples) < {"test 1", "test 3", "test 4"}
    assert examples == example_messages(project, 2)


def test_a_policy_without_blocks_talks_and_is_not_steered(talk: Callable[..., Result]) -> None:
    result = talk("--policy", "sage_1_plain", lines="x\n/boost a_motivation humor 4\nx\n")
    assert result.exit_code == 1
    assert "policy 'sage_1_plain' writes no state and action blocks" in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_the_parameters_steer_only_a_policy_that_can_be_steered(
    talk: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, parameters = talk("--policy", "sage_1_plain").stdout, Project.parameters.func

    def steered(project: Project) -> Parameters:
        configured = parameters(project)
        steering = Steering(fixed={"u_motivation": "humor"})
        evaluation = configured.evaluation.model_copy(update={"steering": steering})
        return configured.model_copy(update={"evaluation": evaluation})

    monkeypatch.setattr(Project, "parameters", property(steered))
    result = talk("--policy", "sage_1_plain")
    assert result.exit_code == 0 and result.stdout == plain != ""
    assert "sage_1_plain writes no state and action blocks, so evaluation.steering does not apply" in result.stderr
    steered = talk()
    assert steered.exit_code == 0 and steered.stdout.startswith("{u_motivation: humor,")
    assert "evaluation.steering does not apply" not in steered.stderr


def test_a_base_and_an_adapter_outside_the_catalog(
    talk: Callable[..., Result], policies: dict[str, Policy], tmp_path: Path
) -> None:
    for name in ("sage_0", "sage_dpo"):
        copy = tmp_path / "elsewhere" / f"{name}.v2"
        copy.mkdir(parents=True)
        for file in policies[name].path.iterdir():
            if file.name != "sage_policy.json":
                (copy / file.name).write_bytes(file.read_bytes())
    where = ["--base", str(tmp_path / "elsewhere/sage_0.v2"), "--adapter", str(tmp_path / "elsewhere/sage_dpo.v2")]
    unknown = talk(*where)
    assert unknown.exit_code == 1 and "--blocks or --no-blocks" in unknown.stderr
    lines = "x\n/fix a_emotion calm\nx\n"
    result = talk(*where, "--blocks", lines=lines)
    assert result.exit_code == 0, result.output
    assert result.stdout == talk(lines=lines).stdout  # the same weights, seed and lines


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--policy", "sage_0", "--base", "."], "exclude each other"),
        (["--adapter", "."], "go with --base"),
        (["--base", "no/such/folder"], "does not exist"),
        (["--temperature", "0"], "not in the range"),
    ],
)
def test_conflicting_options_are_errors(talk: Callable[..., Result], options: list[str], reason: str) -> None:
    result = talk(*options)
    assert result.exit_code == 2 and reason in result.stderr


def test_a_missing_policy_is_reported_with_the_command_that_makes_it(talk: Callable[..., Result]) -> None:
    for name, reason in (
        ("sage_2", "`kedro run --env test --pipelines sage_2` makes it"),
        ("sage_22", "no pipeline makes it"),
        ("nobody", "no catalog entry of a policy has this name"),
        ("win_rates", "no catalog entry of a policy has this name"),
    ):
        result = talk("--policy", name)
        assert result.exit_code == 1 and reason in result.stderr
        assert "Existing policies: sage_0, sage_1_plain, sage_dpo." in result.stderr


def test_a_missing_policy_is_reported_without_torch(configured: Path, tmp_path: Path) -> None:
    code = (
        "import sys, kedro.framework.cli as kedro\nsys.argv = ['kedro', 'sage', 'chat']\n"
        "try:\n    kedro.main()\nfinally:\n    print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(configured / "src"), "SAGE_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=configured, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "False\n"
    assert "`kedro run --pipelines sage_dpo` makes it" in done.stderr


def test_an_engine_over_servers_keeps_its_replies_where_the_project_does(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_DATA", str(tmp_path))
    project = Project(bootstrap_project(configured), "test")
    endpoint = {"base_urls": ["http://127.0.0.1:1/v1"]}
    project.catalog["engine"] = EngineDataset(engine="unittest.mock.call", endpoint=endpoint)
    made = project.engine(Policy(tmp_path, PolicyCard("sage_0", "base", True, "sage_0", "1")), [], seed=3)
    assert made.args[2] == 3
    assert made.kwargs["client"].response_cache.path == tmp_path / "response_cache/responses.sqlite"


@pytest.mark.slow
def test_the_policy_is_served_with_the_settings_of_the_chat(
    talk: Callable[..., Result], configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[tuple[str, list[dict[str, Any]]]] = []
    of_speaker = {"motivation": "humor", "emotion": "calm", "topic": ["dogs"]}
    fixed = {f"{speaker}_{name}": value for speaker in "ua" for name, value in of_speaker.items()}

    def clients(app: Starlette, listener: socket.socket, on_exit: Callable[[], None]) -> None:
        port = listener.getsockname()[1]
        listener.close()
        client = TestClient(app, base_url=f"http://127.0.0.1:{port}")
        asked = {"model": "sage_dpo", "messages": [{"role": "user", "content": "x"}], "seed": 7}
        asked |= {"steering": {"fixed": fixed}}
        choices = client.post("/v1/chat/completions", json=asked | {"n": 4}).json()["choices"]
        streamed = client.post("/v1/chat/completions", json=asked | {"stream": True}).text
        chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        answers.append(
            (
                "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks),
                [choice["message"] for choice in choices],
            )
        )

    monkeypatch.setattr("sage_dialog.studio.local_server.serve", clients)
    metadata = bootstrap_project(configured)
    for seed in ("1", "1", "2"):
        done = CliRunner().invoke(serve, ["--env", "test", "--port", "0", "--seed", seed], obj=metadata)
        assert done.exit_code == 0, done.output
        assert "sage_dpo answers at http://127.0.0.1:" in done.stdout
    streamed, messages = answers[0]
    action = {"motivation": "humor", "emotion": "calm", "topics": ["dogs"]}
    assert [message["action"] for message in messages] == [action] * 4
    assert streamed == messages[0]["content"] != ""
    assert answers[1] == answers[0] != answers[2]


def test_a_port_that_is_taken_is_an_error_without_loading(talk: Callable[..., Result], configured: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        options = ["--env", "test", "--port", str(port)]
        done = CliRunner().invoke(serve, options, obj=bootstrap_project(configured))
    assert done.exit_code == 1 and f"Port {port} is taken. Take another one: --port" in done.stderr
