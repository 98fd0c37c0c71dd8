"""The arena's tab over HTTP: votes, undo, refused requests and error messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from studio_app import SENT, Client, no_ballots
from voting import HOSTILE, PAIRS, POLICIES, rollouts_of

from sage_dialog.studio import local_server
from sage_dialog.studio.app.votes import Rater
from sage_dialog.studio.arena import vote_file
from sage_dialog.studio.arena.ballots import Ballot, plan_ballots
from sage_dialog.studio.arena.session import Session
from sage_dialog.studio.arena.vote_file import VoteFile

Start = Callable[..., Client]


@pytest.fixture
def ballots() -> list[Ballot]:
    return plan_ballots(rollouts_of(9, *POLICIES), PAIRS, None, "anna", 7)


@pytest.fixture
def client(studio: Start, ballots: list[Ballot], tmp_path: Path) -> Client:
    rater = Rater(lambda name: VoteFile(tmp_path / "votes", name), lambda file: Session(ballots, file), "anna")
    return studio(rater=rater)


@pytest.fixture
def ballot_vote(ballots: list[Ballot]) -> dict[str, str]:
    return {"ballot": ballots[0].id, "vote": "first"}


def vote(client: Client, body: object, **headers: str) -> object:
    content = body if isinstance(body, str) else json.dumps(body)
    return client._client.post("/arena/vote", content=content, headers={**SENT, **headers})


def saved_votes(folder: Path) -> list[dict[str, str]]:
    path = folder / "votes/anna.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_vote_is_saved_and_the_next_pair_follows(client: Client, ballot_vote, ballots, tmp_path: Path) -> None:
    assert client.get("/arena/state").json()["ballot"]["id"] == ballots[0].id
    response = vote(client, {**ballot_vote, "comment": " warm \n"})
    assert response.status_code == 200
    assert (response.json()["done"], response.json()["ballot"]["id"]) == (1, ballots[1].id)
    (saved,) = saved_votes(tmp_path)
    assert (saved["vote"], saved["comment"], saved["first"]) == ("first", "warm", ballots[0].first)
    back = client.post("/arena/undo").json()
    assert (back["done"], back["comment"], back["ballot"]["id"]) == (0, "warm", ballots[0].id)


def test_the_same_vote_sent_twice_counts_once(client: Client, ballot_vote, tmp_path: Path) -> None:
    assert vote(client, ballot_vote).status_code == 200
    second = vote(client, ballot_vote)
    assert (second.status_code, second.text) == (409, "This pair is no longer the current one; nothing was saved.")
    assert len(saved_votes(tmp_path)) == 1


@pytest.mark.parametrize("changed", [{"origin": "http://evil.example"}, {"sec-fetch-site": "same-site"}])
def test_other_sites_cannot_vote(client: Client, ballot_vote, changed: dict[str, str], tmp_path: Path) -> None:
    assert vote(client, ballot_vote, **changed).status_code == 403
    assert saved_votes(tmp_path) == []


def test_the_page_holds_no_dialogue(client: Client) -> None:
    page = client.get("/arena").text
    assert '<script src="/static/arena.js" defer></script>' in page
    assert "voice" not in page and "sage_" not in page and "anna votes" in page


def test_hostile_text_is_sent_as_json_only(client: Client) -> None:
    response = client.get("/arena/state")
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
def test_an_invalid_vote_is_refused(client: Client, body: str, status: int, tmp_path: Path) -> None:
    response = vote(client, body)
    assert response.status_code == status and response.text
    assert saved_votes(tmp_path) == []


def test_a_longest_comment_in_any_script_fits(client: Client, ballot_vote, tmp_path: Path) -> None:
    comment = "\N{GRINNING FACE}" * vote_file.MAX_COMMENT
    assert vote(client, {**ballot_vote, "comment": comment}).status_code == 200
    assert saved_votes(tmp_path)[0]["comment"] == comment


def test_a_full_disk_is_an_error_and_nothing_is_counted(
    client: Client, ballot_vote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    response = vote(client, ballot_vote)
    assert response.status_code == 507 and "No space left on device" in response.text
    assert client.get("/arena/state").json()["done"] == 0


def test_a_rater_can_be_named_on_the_page(studio: Start, ballots: list[Ballot], tmp_path: Path) -> None:
    rater = Rater(lambda name: VoteFile(tmp_path / "votes", name), lambda file: Session(ballots, file))
    client = studio(rater=rater)
    assert 'name="rater"' in client.get("/arena").text and client.get("/arena/state").status_code == 409
    refused = client.post("/arena/rater", rater="Anna B")
    assert refused.status_code == 422 and "not a valid rater name" in refused.text
    assert client.post("/arena/rater", rater="anna").headers["hx-redirect"] == "/arena"
    assert "anna votes" in client.get("/arena").text
    assert client.post("/arena/rater", rater="bert").status_code == 422  # one for each studio


def test_without_dialogues_the_page_says_what_makes_them(studio: Start, tmp_path: Path) -> None:
    client = studio(rater=Rater(lambda name: VoteFile(tmp_path / "votes", name), no_ballots, "anna"))
    assert "There are no dialogues to compare yet." in client.get("/arena").text


def test_only_this_machine_can_reach_it() -> None:
    listener = local_server.listen(0)
    try:
        assert listener.getsockname()[0] == "127.0.0.1"
        with pytest.raises(local_server.PortTakenError, match="is taken"):
            local_server.listen(listener.getsockname()[1])
    finally:
        listener.close()
