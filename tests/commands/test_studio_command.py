"""`kedro sage studio`: options, errors and output; a project without policies and tables; an external model."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from faulty_server import FaultyServer
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from studio_app import SENT

from sage_dialog.commands.studio import studio
from sage_dialog.studio import local_server


@pytest.fixture
def run(configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("SAGE_DATA", str(tmp_path))
    project = SimpleNamespace(project_path=configured)
    return lambda *given: CliRunner().invoke(studio, ["-e", "test", "--port", "0", *given], obj=project)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--policy", "sage_9"), "There is no policy 'sage_9'"),
        (("--policy", "sage_dpo"), "kedro run --env test"),
        (("--rater", "Anna B"), "'Anna B' is not a valid rater name"),
        (("--blocks",), "--adapter and --blocks go with --base"),
    ],
)
def test_errors_name_the_fault(run: Callable[..., Result], given: tuple[str, ...], error: str) -> None:
    done = run("--no-browser", *given)
    assert done.exit_code and error in done.output, done.output


def test_a_taken_port_is_an_error(run: Callable[..., Result]) -> None:
    taken = local_server.listen(0)
    port = taken.getsockname()[1]
    try:
        done = run("--no-browser", "--port", str(port))
    finally:
        taken.close()
    assert done.exit_code == 1 and f"--port {port + 1}" in done.output


def test_an_empty_project_says_what_is_missing(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    pages: dict[str, tuple[int, str]] = {}

    def visit(app: ASGIApp, listener: socket.socket, on_exit: object) -> None:
        client = TestClient(app, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert client.get(opened[-1]).status_code == 200
        for path in ("/chat", "/explorer", "/explorer/1", "/arena"):
            response = client.get(path, headers={"accept": "text/html"})
            pages[path] = response.status_code, response.text
        listener.close()

    monkeypatch.setattr(local_server, "serve", visit)
    monkeypatch.setattr("sage_dialog.commands.studio.click.launch", opened.append)
    done = run("--rater", "anna")
    assert done.exit_code == 0, done.output
    assert f"The studio is at {opened[-1]}" in done.output and "/chat?token=" in opened[-1]
    assert (
        pages["/chat"][0] == 200 and "There is no policy yet." in pages["/chat"][1] and "<form" not in pages["/chat"][1]
    )
    for path in ("/explorer", "/explorer/1"):
        assert pages[path][0] == 404 and "kedro run --env test" in pages[path][1], pages[path]
    assert pages["/arena"][0] == 200 and "There are no dialogues to compare yet." in pages["/arena"][1]


def test_an_external_model_is_talked_with(
    configured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_waits: None
) -> None:
    """Its replies are those of its server, as text; a refusal of the server is shown, and the message sent again."""
    opened: list[str] = []
    views: list[str] = []
    shutil.copytree(configured / "conf", tmp_path / "conf")
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("sage_dialog.commands.studio.click.launch", opened.append)

    def reply(body: dict[str, Any]) -> str:
        return f"<b>{body['messages'][-1]['content']}</b>"

    with FaultyServer(reply=reply) as server:

        def visit(app: ASGIApp, listener: socket.socket, on_exit: object) -> None:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with TestClient(app, base_url=address, headers={**SENT, "origin": address}) as client:
                client.get(opened[-1])
                begun = client.post("/chat/new", data={"policy": "theirs", "text": "Hello."})
                talk = begun.headers["hx-redirect"]
                refused = 401, {"error": {"message": "no such key"}}
                for status, text in ((None, ""), (refused, "It rains."), (None, "It rains.")):
                    server.status = status
                    if text:
                        client.post(f"{talk}/say", data={"text": text})
                    client.get(f"{talk}/stream/0")
                    views.append(client.get(f"{talk}/view").text)
            listener.close()

        entry = {"base_urls": [server.url], "model": "some-model"}
        models = {"theirs": {"endpoint": entry, "system_prompt": "You listen."}}
        catalog = {"external_models": {"type": "sage_dialog.datasets.external_models.ExternalModels", "models": models}}
        (tmp_path / "conf/test/catalog_external.yml").write_text(json.dumps(catalog))
        monkeypatch.setattr(local_server, "serve", visit)
        project = SimpleNamespace(project_path=tmp_path)
        done = CliRunner().invoke(studio, ["-e", "test", "--port", "0", "--policy", "theirs"], obj=project)
    assert done.exit_code == 0, (done.output, done.exception)
    first, refused, last = views
    assert "&lt;b&gt;Hello.&lt;/b&gt;" in first and "data-field" not in first
    assert "no such key" in refused and ">It rains.</textarea>" in refused
    assert "&lt;b&gt;It rains.&lt;/b&gt;" in last and "no such key" not in last
    sent = server.calls[-1].body["messages"]
    said = [("system", "You listen."), ("user", "Hello."), ("assistant", "<b>Hello.</b>"), ("user", "It rains.")]
    assert [(message["role"], message["content"]) for message in sent] == said
