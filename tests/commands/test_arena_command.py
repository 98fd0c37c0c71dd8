"""`kedro sage arena`: options, errors and output; the page in a browser, with a kill of the server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result
from kedro.io import Version
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from voting import HOSTILE, PAIRS, POLICIES, rollouts_of, vote_on

from sage_dialog.commands.arena import arena
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.studio import local_server
from sage_dialog.studio.arena.ballots import plan_ballots
from sage_dialog.studio.arena.vote_file import VoteFile

PAIR = ("--pair", "sage_0", "sage_1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "07_model_output" / "rollouts.parquet"
    rollouts = AtomicParquet(filepath=str(path), version=Version(None, "2026-01-01T00.00.00.000Z"))
    rollouts.save(rollouts_of(9, *POLICIES))
    return tmp_path


@pytest.fixture
def votes(data: Path) -> Path:
    return data / "01_raw" / "human_votes"


@pytest.fixture
def run(configured: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("SAGE_DATA", str(data))
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *given: CliRunner().invoke(
        arena, ["-e", "test", *given], obj=SimpleNamespace(project_path=configured)
    )


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ((), "--rater is required, such as --rater anna"),
        (("--rater", "Anna B", *PAIR), "'Anna B' is not a valid rater name: use 1 to 32 of a to z"),
        (
            ("--rater", "anna", "--pair", "sage_0", "sage_o"),
            "no policy with dialogues is called 'sage_o'; did you mean",
        ),
        (("--rater", "anna", "--pair", "sage_0", "zzz"), "called 'zzz'; there are sage_0, sage_1, sage_2."),
        (("--rater", "anna", "--pair", "sage_0", "sage_0"), "sage_0 cannot be compared with itself"),
        (("--rater", "anna", "--pair", "sage_0", "sage_3"), "no dialogues of sage_3 to compare"),
        # evaluation.pairs name sage_dpo
        (("--rater", "anna"), "`kedro run --env test --pipelines evaluation` makes them"),
        (("--rater", "anna", "--port", "70000"), "70000 is not in the range"),
    ],
)
def test_errors_name_the_fault(run: Callable[..., Result], votes: Path, given: tuple[str, ...], error: str) -> None:
    done = run(*given)
    assert done.exit_code and error in done.output, done.output
    assert not list(votes.glob("*.jsonl"))


def test_without_dialogues_the_error_names_the_pipeline(run: Callable[..., Result], data: Path) -> None:
    shutil.rmtree(data / "07_model_output")
    done = run("--rater", "anna")
    assert done.exit_code == 1
    assert "no dialogues to compare yet" in done.output and "`kedro run --env test --pipelines demo`" in done.output


def test_a_taken_port_is_an_error(run: Callable[..., Result]) -> None:
    taken = local_server.listen(0)
    port = taken.getsockname()[1]
    try:
        done = run("--rater", "anna", *PAIR, "--no-browser", "--port", str(port))
    finally:
        taken.close()
    assert done.exit_code == 1
    assert f"Port {port} is taken" in done.output and f"--port {port + 1}" in done.output


def test_it_serves_the_selected_pairs_and_prints_a_summary(
    run: Callable[..., Result], votes: Path, monkeypatch
) -> None:
    opened: list[str] = []

    def people(app: ASGIApp, listener: socket.socket, on_exit: object) -> None:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert opened[-1].startswith(f"{address}/arena?token=")
        client = TestClient(app, base_url=address)
        client.get(opened[-1])
        for choice in ("first", "tie"):
            ballot = client.get("/arena/state").json()["ballot"]["id"]
            client.post("/arena/vote", json={"ballot": ballot, "vote": choice}, headers={"origin": address})
        listener.close()

    monkeypatch.setattr(local_server, "serve", people)
    monkeypatch.setattr("sage_dialog.commands.studio.click.launch", opened.append)
    options = ("--rater", "anna", *PAIR, "--pair", "sage_1", "sage_0", "--situations", "4", "--port", "0")
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert "anna votes at http://127.0.0.1:" in done.output and "(4 to go)" in done.output
    assert "2 votes given, 2 to go." in done.output and "2 votes of anna in all" in done.output
    assert "kedro run --env test --pipelines evaluation --from-inputs human_votes" in done.output
    assert "4 votes of anna in all" in run(*options).output
    assert len((votes / "anna.jsonl").read_text().splitlines()) == 4


def test_the_status_counts_valid_votes(run: Callable[..., Result], votes: Path) -> None:
    ballots = plan_ballots(rollouts_of(9, *POLICIES), PAIRS, None, "anna", 7)
    assert "There are no votes yet" in run("--status").output
    for rater, number in (("anna", 3), ("bert", 1)):
        file = VoteFile(votes, rater)
        for ballot in ballots[:number]:
            file.add(vote_on(ballot, "first", "[bold]good"))
        if rater == "anna":
            file.add(vote_on(ballots[5], "tie").model_copy(update={"first_digest": "of other words"}))
        file.close()
    done = run("--status")
    rows = [line.split() for line in done.output.splitlines()]
    assert ["anna", "4", "3", "3", "1", "(the", "dialogue", "has", "changed)"] in rows, done.output
    assert ["bert", "1", "1", "1", "–"] in rows
    (votes / "bert.jsonl").write_text("no vote\n" * 2)
    damaged = run("--status")
    assert damaged.exit_code == 1 and "bert.jsonl, line 1: not a vote" in damaged.output


class Arena:
    """The command as a process of its own, which can be killed and started again on the same port."""

    def __init__(self, project: Path, data: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = ""
        environment = {**os.environ, "PYTHONPATH": str(project / "src"), "SAGE_DATA": str(data)}
        command = [sys.executable, "-m", "kedro", "sage", "arena", "-e", "test", "--rater", "anna", *PAIR]
        command += ["--no-browser", "--situations", "5", "--port", str(self.port)]
        self._start = lambda: subprocess.Popen(
            command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = self._start()
        assert self.process.stdout
        self.greeting = self.process.stdout.readline()  # printed once it listens
        found = re.search(r"http://\S+", self.greeting)
        assert found, self.greeting + self.process.communicate()[0]
        self.url = found[0]

    def stop(self, by: signal.Signals) -> str:
        assert self.process
        self.process.send_signal(by)
        output = self.process.communicate(timeout=240)[0]
        self.process = None
        return output


@pytest.fixture
def served(configured: Path, data: Path) -> Iterator[Arena]:
    arena = Arena(configured, data)
    arena.start()
    yield arena
    if arena.process:
        arena.stop(signal.SIGKILL)


def kept(votes: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (votes / "anna.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_in_a_browser(served: Arena, votes: Path) -> None:
    """Votes by mouse and by key, a reload, a kill, a resume, an undo; hostile text is text; nothing leaves here."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("needs chromium")
    expect = playwright.expect
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        requested: list[str] = []
        faults: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        count, first = page.locator("#count"), page.locator("#first li.assistant .message").first
        a_is_better = page.get_by_role("button", name="A is better")

        page.goto(served.url)
        expect(count).to_have_text("0 of 5")
        expect(page.locator("#opening")).to_contain_text(HOSTILE)
        expect(first).to_contain_text(HOSTILE)
        assert page.locator("main script, main img").count() == 0 and page.title() == "Arena · sage-dialog"
        assert "sage_" not in page.content() and "BLOCK" not in page.content()

        a_is_better.click()
        expect(count).to_have_text("1 of 5")
        expect(page.locator("#status")).to_have_text("A is better, saved. 1 of 5.")
        expect(page.locator("#question")).to_be_focused()
        expect(a_is_better).to_be_enabled()
        second = browser.new_page()  # a second window, which will show a pair that the first has judged
        second.goto(served.url)
        expect(second.locator("#count")).to_have_text("1 of 5")
        page.keyboard.press("c")
        page.keyboard.type("a bit better, but too long")  # the letters of a comment are no votes
        page.keyboard.press("Escape")
        page.keyboard.press("b")
        expect(count).to_have_text("2 of 5")
        assert [(vote["vote"], vote["comment"]) for vote in kept(votes)] == [
            ("first", None),
            ("second", "a bit better, but too long"),
        ]
        judged = second.locator("#opening").text_content()
        expect(second.get_by_role("button", name="Tie")).to_be_enabled()
        second.keyboard.press("t")
        expect(second.get_by_role("alert")).to_contain_text("no longer the current one; nothing was saved")
        expect(second.locator("#count")).to_have_text("2 of 5")  # and it shows the current pair
        assert second.locator("#opening").text_content() != judged and len(kept(votes)) == 2
        second.close()

        page.reload()
        expect(count).to_have_text("2 of 5")
        third = first.text_content()
        served.stop(signal.SIGKILL)
        a_is_better.click()
        expect(page.get_by_role("alert")).to_contain_text("The studio does not respond.")
        assert len(kept(votes)) == 2
        served.start()
        page.keyboard.press("t")  # the old page has an old token only
        expect(page.get_by_role("alert")).to_contain_text("Open the address that the terminal shows")
        assert len(kept(votes)) == 2
        page.goto(served.url)
        expect(count).to_have_text("2 of 5")
        assert first.text_content() == third

        expect(a_is_better).to_be_enabled()
        page.keyboard.press("u")
        expect(count).to_have_text("1 of 5")
        expect(page.locator("#comment")).to_have_value("a bit better, but too long")
        for given in range(1, 5):
            expect(a_is_better).to_be_enabled()
            page.keyboard.press("ArrowRight" if given % 2 else "t")
            expect(count).to_have_text(f"{given + 1} of 5")
        expect(page.get_by_role("heading", name="All pairs are judged.")).to_be_focused()
        assert not a_is_better.is_visible()

        browser.close()
    assert {urlsplit(url).netloc for url in requested} == {f"127.0.0.1:{served.port}"}
    assert [fault for fault in faults if "ERR_CONNECTION_REFUSED" not in fault and "403" not in fault] == []
    output = served.stop(signal.SIGINT)
    assert "4 votes given, 0 to go." in output and "5 votes of anna in all" in output
    assert len(kept(votes)) == 2 + 1 + 4
