"""`kill -9` of a studio in the middle of a reply and of votes: conversations and votes are whole at the next start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import killed_studio
import pytest
from studio_app import SENT, TOKEN, Client, said, studio_of

from sage_dialog.corpora.conversations import read_conversations
from sage_dialog.studio.arena.vote_file import read_folder

PAIR = {"policy": "sage_7", "beside": "sage_8"}


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, killed_studio.__file__, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_conversations_and_votes_are_whole_after_a_kill(process: subprocess.Popen[str], tmp_path: Path) -> None:
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    voted: list[str] = []
    with httpx2.Client(base_url=address, headers={**SENT, "origin": address}, timeout=60) as client:
        client.get(f"/?token={TOKEN}")

        def begin() -> str:
            talk = str(client.post("/chat/new", data={**PAIR, "text": "Hello."}).headers["hx-redirect"])
            for side in (0, 1):
                client.get(f"{talk}/stream/{side}")
            return talk

        def vote() -> None:
            with suppress(httpx2.HTTPError):
                for talk in talks:
                    assert client.post(f"{talk}/vote", data={"vote": "first", "rater": "anna"}).status_code == 200
                    voted.append(talk)

        talks, waiting = [begin() for _ in range(24)], begin()
        client.post(f"{waiting}/say", data={"text": "wait"})
        voting = threading.Thread(target=vote)
        with client.stream("GET", f"{waiting}/stream/1") as stream:
            lines = stream.iter_lines()
            assert any("on and" in line for line in lines)
            voting.start()
            assert any(len(voted) >= 3 or not voting.is_alive() for _ in lines)
            process.kill()
        voting.join()
    assert 3 <= len(voted) < 24  # in the middle of the votes

    for path in (tmp_path / "studio/conversations").glob("[0-9a-f]*.json"):
        json.loads(path.read_text())
    (votes,) = read_folder(tmp_path / "votes").values()
    saved = [each.situation_id.replace("chat/", "/chat/") for each in votes]
    assert saved[: len(voted)] == voted and len(saved) <= len(voted) + 1  # that of an interrupted request
    kept = tmp_path / "votes/chats"
    names = {f"{name}.jsonl" for each in votes for name in (each.first_digest, each.second_digest)}
    dialogues, rejects = read_conversations({name: kept / name for name in names})
    assert len(dialogues) == len(names) and not rejects

    with Client(studio_of(tmp_path)) as again:
        stopped = again.get(f"{waiting}/view").text
        assert "was stopped before" in stopped and ">wait</textarea>" in stopped
        replied = [f"{name} turn 0 draw 0 sample 0" for name in ("sage_7", "sage_8")]
        first, second = (["Hello.", reply] for reply in replied)
        assert said(stopped) == [*first, "wait", "sage_7 turn 1 draw 0 sample 0", *second]
        assert stopped.index("was stopped before") > stopped.index('aria-label="sage_8"')
        sent = again.step(waiting, "say", text="wait")
        assert [text for text in said(sent) if not text.startswith("sage_")] == ["Hello.", "wait"] * 2
        for talk in talks:
            assert said(again.get(f"{talk}/view").text) == [*first, *second]
            assert again.post(f"{talk}/vote", vote="tie", rater="anna").status_code == (422 if talk in voted else 200)
    (all_votes,) = read_folder(tmp_path / "votes").values()
    assert all_votes[: len(votes)] == votes and len(all_votes) == len(talks)
