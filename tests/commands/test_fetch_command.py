"""`kedro sage fetch`: a file is kept only with the hash that was published."""

import hashlib
import io
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from sage_dialog.commands import fetch as fetch_module
from sage_dialog.commands.fetch import fetch
from sage_dialog.corpora.labelled.origins import Origin, origins
from sage_dialog.datasets.raw_folder import GENERATED, RawFolder

PROJECT = Path(__file__).parents[2]
CONTENT = b"a corpus" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def whole():
    """While it is not set, the server sends half of a file."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def closed():
    """While it is not set, the server keeps the connection open after half of a file."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def address(tmp_path, whole, closed):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def copyfile(self, source, outputfile):
            if whole.is_set():
                return super().copyfile(source, outputfile)
            outputfile.write(source.read(len(CONTENT) // 2))
            closed.wait(20)

    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "talk.zip").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def origin(address):
    return Origin("talks", "CC0", f"{address}/talk.zip", "talk.zip", SHA256)


@pytest.fixture
def run(tmp_path, monkeypatch, origin):
    entry = RawFolder(filepath=str(tmp_path / "raw"), patterns=["*"], made_by="x", optional=True)
    project = SimpleNamespace(catalog={"talks": entry})
    monkeypatch.setattr(fetch_module, "Project", lambda *_: project)

    def fetch_corpora(*names: str, **changes):
        known = {"talk": replace(origin, **changes), "shy": Origin("talks", "ask", by_hand="Write to the authors.")}
        monkeypatch.setattr(fetch_module, "origins", lambda: known)
        return CliRunner().invoke(fetch, [*names], obj=SimpleNamespace(project_path=tmp_path))

    return fetch_corpora


def test_a_corpus_is_fetched_into_its_folder_once(run, tmp_path):
    pytest.importorskip("pooch")
    result = run("talk")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "raw" / "talk.zip").read_bytes() == CONTENT and "CC0" in result.output
    (tmp_path / "served" / "talk.zip").unlink()
    assert run("talk").exit_code == 0


def test_other_bytes_leave_no_file(run, tmp_path):
    pytest.importorskip("pooch")
    result = run("talk", sha256="0" * 64)
    assert result.exit_code == 1 and "has other bytes than published" in result.output
    assert list((tmp_path / "raw").iterdir()) == []


def test_an_address_that_does_not_answer_says_what_to_do_by_hand(run, address):
    pytest.importorskip("pooch")
    result = run("talk", url=f"{address}/gone.zip", by_hand="Ask the archive.")
    assert result.exit_code == 1
    assert "404" in result.output and "by hand. Ask the archive." in result.output
    assert f"put talk.zip (sha256 {SHA256}) into" in result.output


def test_a_connection_that_is_lost_leaves_no_file_and_the_next_fetch_succeeds(run, tmp_path, whole):
    pytest.importorskip("pooch")
    whole.clear()
    result = run("talk")
    assert result.exit_code == 1 and len(result.output.splitlines()) == 2, result.output
    assert "the connection was lost before the end of the file. Run the command again" in result.output
    assert list((tmp_path / "raw").iterdir()) == []
    whole.set()
    assert run("talk").exit_code == 0
    assert (tmp_path / "raw" / "talk.zip").read_bytes() == CONTENT


def test_a_killed_fetch_leaves_nothing_that_counts_as_data(run, tmp_path, origin, whole, closed):
    pytest.importorskip("pooch")
    raw = tmp_path / "raw"
    whole.clear()
    closed.clear()  # the server sends half, then waits
    code = (
        "import sys; from pathlib import Path; from sage_dialog.commands import fetch\n"
        "fetch._fetch('talk', fetch.Origin('talks', 'CC0', *sys.argv[2:]), Path(sys.argv[1]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(raw), origin.url, origin.file, origin.sha256])
    try:
        while not any(path.stat().st_size for path in raw.glob(".*")):
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
        closed.set()
    assert [path.name[0] for path in raw.iterdir()] == ["."]
    assert RawFolder(filepath=str(raw), patterns=["*"], made_by="x", optional=True).load() == {}
    whole.set()
    assert run("talk").exit_code == 0
    assert [path.name for path in raw.iterdir()] == ["talk.zip"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_progress(tmp_path, origin, terminal):
    pytest.importorskip("pooch")
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    with redirect_stderr(stream):
        fetch_module._fetch("talk", origin, tmp_path)
    assert f"Fetching talk from {origin.url}" in stream.getvalue()
    assert ("100%" in stream.getvalue()) == terminal


def test_corpora_without_an_address_and_unknown_ones(run):
    result = run("shy")
    assert result.exit_code == 1 and "shy (ask): Write to the authors." in result.output
    result = run("tolk")
    assert result.exit_code == 2 and "tolk: no such corpus; there are talk, shy" in result.output
    result = run()
    assert result.exit_code == 0 and "CC0" in result.output and "by hand" in result.output


def test_generated_data_is_not_mixed_with_real_data(run, tmp_path):
    pytest.importorskip("pooch")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / GENERATED).write_text("{}")
    result = run("talk")
    assert result.exit_code == 1 and "holds generated data" in result.output


def test_the_documentation_has_every_origin():
    text = (PROJECT / "docs/corpora.md").read_text()
    for name, origin in origins().items():
        assert f"`{name}`" in text and origin.licence.split(",")[0] in text
        assert origin.sha256 is None or origin.sha256 in text
        assert origin.url is None or origin.url in text
