"""The arena over HTTP: access, headers and error messages."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from voting import HOSTILE

from sage_dialog.studio import local_server
from sage_dialog.studio.arena import server, vote_file
from sage_dialog.studio.arena.ballots import Ballot
from sage_dialog.studio.arena.session import Session

TOKEN = "the token of this start"
OURS = {"x-arena-token": TOKEN, "origin": "http://127.0.0.1:4142", "sec-fetch-site": "same-origin"}


@pytest.fixture
def client(new_session: Callable[..., Session]) -> TestClient:
    return TestClient(server.make_app(new_session(), TOKEN), base_url="http://127.0.0.1:4142")


@pytest.fixture
def ballot_vote(ballots: list[Ballot]) -> dict[str, str]:
    return {"ballot": ballots[0].id, "vote": "first"}


def saved_votes(folder: Path) -> list[dict[str, str]]:
    path = folder / "anna.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_vote_is_saved_and_the_next_pair_follows(client: TestClient, ballot_vote, ballots, tmp_path: Path) -> None:
    assert client.get("/state").json()["ballot"]["id"] == ballots[0].id
    response = client.post("/vote", json={**ballot_vote, "comment": " warm \n"}, headers=OURS)
    assert response.status_code == 200
    assert (response.json()["done"], response.json()["ballot"]["id"]) == (1, ballots[1].id)
    (vote,) = saved_votes(tmp_path)
    assert (vote["vote"], vote["comment"], vote["first"]) == ("first", "warm", ballots[0].first)
    back = client.post("/undo", headers=OURS).json()
    assert (back["done"], back["comment"], back["ballot"]["id"]) == (0, "warm", ballots[0].id)


def test_the_same_vote_sent_twice_counts_once(client: TestClient, ballot_vote, tmp_path: Path) -> None:
    assert client.post("/vote", json=ballot_vote, headers=OURS).status_code == 200
    second = client.post("/vote", json=ballot_vote, headers=OURS)
    assert (second.status_code, second.text) == (409, "This pair is no longer the current one; nothing was saved.")
    assert len(saved_votes(tmp_path)) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"x-arena-token": "of an earlier start"},
        {"x-arena-token": ""},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/vote", "/undo"])
def test_other_sites_cannot_vote(client: TestClient, ballot_vote, changed, path: str, tmp_path: Path) -> None:
    assert client.post(path, json=ballot_vote, headers={**OURS, **changed}).status_code == 403
    assert saved_votes(tmp_path) == []


def test_a_form_of_another_site_is_refused(client: TestClient, ballot_vote, tmp_path: Path) -> None:
    """A browser sends a cross-site form without a preflight request: no token header, and an Origin."""
    headers = {"origin": "http://evil.example", "content-type": "text/plain"}
    assert client.post("/vote", content=json.dumps(ballot_vote), headers=headers).status_code == 403
    assert client.post("/vote", content=json.dumps(ballot_vote)).status_code == 403
    assert saved_votes(tmp_path) == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4142", "127.0.0.1.evil.example", "", "0.0.0.0:4142"])
def test_other_host_names_are_refused(client: TestClient, ballot_vote, host: str, tmp_path: Path) -> None:
    for response in (
        client.get("/", headers={"host": host}),
        client.get("/state", headers={"host": host}),
        client.post("/vote", json=ballot_vote, headers={**OURS, "host": host, "origin": f"http://{host}"}),
    ):
        assert response.status_code == 400 and TOKEN not in response.text and "voice" not in response.text
    assert saved_votes(tmp_path) == []


def test_the_machine_s_own_names_are_accepted(client: TestClient) -> None:
    for host in ("127.0.0.1:4142", "localhost:4142", "localhost"):  # the last two through a forwarded port, too
        assert client.get("/", headers={"host": host}).status_code == 200


def test_every_response_has_the_security_headers(client: TestClient) -> None:
    for path in ("/", "/state", "/page/arena.js", "/page/arena.css", "/nothing"):
        headers = client.get(path).headers
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_the_page_holds_no_dialogue_no_script_and_no_address(client: TestClient) -> None:
    page = client.get("/").text
    assert page.count("<script") == 1 and '<script src="page/arena.js" defer></script>' in page
    assert "<style" not in page and " on" not in page.split("<body>")[0] and "http" not in page
    assert "voice" not in page and "sage_" not in page
    assert TOKEN in page and "anna votes" in page


def test_hostile_text_is_sent_as_json_only(client: TestClient) -> None:
    response = client.get("/state")
    assert response.headers["content-type"] == "application/json"
    assert HOSTILE in response.json()["ballot"]["opening"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("not json", 422),
        ('{"ballot": "x"}', 422),
        ('{"ballot": "x", "vote": "a"}', 422),
        ('{"ballot": "x", "vote": "tie", "judge": "human:bert"}', 422),
        ('{"ballot": "x", "vote": "tie", "comment": "\\ud800"}', 422),
        (json.dumps({"ballot": "x", "vote": "tie", "comment": "a" * 2001}), 422),
        ('{"ballot": "x", "vote": "tie"}', 409),
        ("[" * 70_000, 413),
    ],
)
def test_an_invalid_vote_is_refused(client: TestClient, body: str, status: int, tmp_path: Path) -> None:
    response = client.post("/vote", content=body, headers=OURS)
    assert response.status_code == status and response.text
    assert saved_votes(tmp_path) == []


def test_a_longest_comment_in_any_script_fits(client: TestClient, ballot_vote, tmp_path: Path) -> None:
    comment = "\N{GRINNING FACE}" * vote_file.MAX_COMMENT
    assert client.post("/vote", json={**ballot_vote, "comment": comment}, headers=OURS).status_code == 200
    assert saved_votes(tmp_path)[0]["comment"] == comment


def test_a_full_disk_is_an_error_and_nothing_is_counted(
    client: TestClient, ballot_vote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    response = client.post("/vote", json=ballot_vote, headers=OURS)
    assert response.status_code == 507 and "No space left on device" in response.text
    assert client.get("/state").json()["done"] == 0


def test_other_paths_do_not_exist(client: TestClient) -> None:
    for path in ("/docs", "/page/", "/page/../server.py", "/page/%2e%2e/server.py", "/anna.jsonl"):
        assert client.get(path).status_code == 404
    assert client.get("/vote").status_code == client.post("/", headers=OURS).status_code == 405


def test_only_this_machine_can_reach_it() -> None:
    listener = local_server.listen(0)
    try:
        assert listener.getsockname()[0] == "127.0.0.1"
        with pytest.raises(local_server.PortTakenError, match="is taken"):
            local_server.listen(listener.getsockname()[1])
    finally:
        listener.close()
