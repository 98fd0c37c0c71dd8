"""A studio with scripted policies and small tables for tests, over HTTP or as a server in a thread."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from scripted_engine import ScriptedEngine
from starlette.testclient import TestClient

from sage_dialog.config import SamplingConfig
from sage_dialog.core.tables import DataFrame
from sage_dialog.inference.engine import PolicyEngine, Prompt
from sage_dialog.sac import Chain, Intent, render
from sage_dialog.studio import local_server
from sage_dialog.studio.app.server import Studio, make_app
from sage_dialog.studio.app.votes import Rater
from sage_dialog.studio.arena.session import Session
from sage_dialog.studio.arena.vote_file import VoteFile
from sage_dialog.studio.chat.conversation import Settings
from sage_dialog.studio.chat.policies import TalkPolicies, TalkPolicy
from sage_dialog.studio.engine_thread import EngineThread
from sage_dialog.studio.explorer.tables import Tables

TOKEN = "the token of this start"
ADDRESS = "http://127.0.0.1:4144"
SENT = {"origin": ADDRESS, "sec-fetch-site": "same-origin", "hx-request": "true"}
"""Headers of a form of the studio's own page."""
KNOWN = {"a_motivation": ["humor", "empathy"], "a_emotion": ["calm"]}


def reply_with_blocks(words: str, motivation: str = "empathy") -> str:
    """A reply with its blocks."""
    return render(Chain(Intent("sharing", "sad", ("home",)), Intent(motivation, "calm", ("home", "rain")), words))


def numbered_reply(policy: str, prompt: Prompt, sample: int) -> str:
    """Return a reply with its policy, turn, draw and sample numbers."""
    return reply_with_blocks(f"{policy} turn {prompt.item[1]} draw {prompt.item[2]} sample {sample}")


def no_ballots(file: VoteFile) -> Session:
    raise ValueError("There are no dialogues to compare yet.")


def settings() -> Settings:
    return Settings(
        sampling=SamplingConfig.from_base(max_new_tokens=50, top_k=100, hold_form=True), system_prompt="You listen."
    )


def studio_of(
    folder: Path,
    engine: PolicyEngine | None = None,
    names: Sequence[str] = ("sage_7", "sage_8", "plain"),
    frames: Mapping[str, DataFrame] | None = None,
    rater: Rater | None = None,
    examples: Sequence[str] = (),
) -> Studio:
    """Return a studio; the policy `plain` writes no blocks."""
    engine = engine or ScriptedEngine(numbered_reply)
    tables = frames or {}
    policies = TalkPolicies(
        tuple(names), lambda name: TalkPolicy(name, name != "plain", settings(), "one", lambda: engine)
    )
    return Studio(
        thread=EngineThread(),
        policies=policies,
        known=lambda: KNOWN,
        examples=lambda: examples,
        tables=Tables(
            iterations=lambda: [int(name[-1]) for name in tables if name.startswith("candidates_")],
            version=lambda name: "2026" if name in tables else None,
            load=lambda name, version: tables[name],
            missing=lambda name: f"There is no table {name} yet.",
        ),
        rater=rater or Rater(lambda name: VoteFile(folder / "votes", name), no_ballots),
        folder=folder / "studio",
        dialogues=folder / "votes/chats",
        candidates=4,
        seed=3,
        rule="agreement",
    )


def said(html: str) -> list[str]:
    """Return the messages of a conversation."""
    return re.findall(r'<div class="message"[^>]*>([^<]*)</div>', html)


class Client:
    """A browser's requests to a studio, without a browser."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._client = TestClient(make_app(studio, TOKEN), base_url=ADDRESS, follow_redirects=False)
        assert self._client.get(f"/?token={TOKEN}").status_code == 303

    def __enter__(self) -> Client:
        self._client.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)
        self.studio.thread.close()
        self.studio.rater.close()

    def get(self, path: str, **headers: str) -> Any:
        return self._client.get(path, headers=headers)

    def post(self, path: str, **fields: Any) -> Any:
        return self._client.post(path, data=fields, headers=SENT)

    def begin(self, text: str = "I moved.", **fields: str) -> str:
        """Return the address of a new conversation after its first reply."""
        response = self.post("/chat/new", **{"policy": "sage_7", "text": text, **fields})
        assert response.status_code == 204, response.text
        address = response.headers["hx-redirect"]
        self.wait(address)
        return address

    def wait(self, address: str) -> None:
        """Wait until no reply is being drawn."""
        for side in (0, 1):
            self.get(f"{address}/stream/{side}")

    def step(self, address: str, name: str, **fields: Any) -> str:
        """Return the conversation as HTML after a step and its reply."""
        response = self.post(f"{address}/{name}", **fields)
        assert response.status_code == 200, response.text
        self.wait(address)
        return self.get(f"{address}/view").text


class Served:
    """A studio as a server on a port, for a browser."""

    def __init__(self, studio: Studio, port: int = 0) -> None:
        self.studio = studio
        self._listener = local_server.listen(port)
        self.port = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            make_app(studio, TOKEN), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._running = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._running.start()

    def start_address(self, page: str = "/chat") -> str:
        return f"{self.address}{page}?token={TOKEN}"

    def cut_connections(self) -> None:
        """Close all connections in the middle of what they send."""
        for connection in list(self._server.server_state.connections):
            connection.loop.call_soon_threadsafe(connection.transport.abort)

    def close(self) -> None:
        self.studio.thread.stop()
        self._server.should_exit = True
        self._running.join()
        self.studio.thread.close()
        self.studio.rater.close()


Script = Callable[[str, Prompt, int], Any]
