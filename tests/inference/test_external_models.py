"""An external model behind a chat API as an engine: its text as it comes, from servers that stream and that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer

from sage_dialog.config import Caps, SamplingConfig
from sage_dialog.inference.engine import FinishReason, Prompt
from sage_dialog.inference.external_models import ExternalModel
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import RequestRejectedError
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.studio.chat.external_models import ChatModelEngine

SAMPLING = SamplingConfig.from_base()
PROMPT = Prompt(({"role": "user", "content": "you there"},), ("chat", 0, 0))
WORDS = ["echo ", "you ", "there"]


@pytest.fixture
def engine(tmp_path: Path, short_waits: None) -> Iterator[Callable[[FaultyServer], ChatModelEngine]]:
    cache = ResponseCache(tmp_path / "responses.sqlite")
    clients: list[LiveClient] = []

    def create(server: FaultyServer) -> ChatModelEngine:
        sampling = {"max_tokens": 50}
        endpoint = Endpoint(base_urls=(server.url,), model="some-model", sampling=sampling, timeout_s=10)
        clients.append(LiveClient(endpoint, cache, Budget(Caps(), {}, {})))
        return ChatModelEngine(ExternalModel("theirs", clients[-1]), 7)

    yield create
    for client in clients:
        loop.run(client.close())
    cache.close()


def pieces_of(engine: ChatModelEngine) -> tuple[list[str], str]:
    """Return the pieces of a reply, and the reply."""
    pieces: list[str] = []
    ((sample,),) = engine.sample("theirs", [PROMPT], SAMPLING, on_text=pieces.append)
    assert sample.finish_reason is FinishReason.STOP
    return pieces, sample.text


def refuse_streams(body: dict[str, Any]) -> tuple[int, str] | None:
    return (422, "stream_options: extra inputs are not permitted") if body.get("stream") else None


@pytest.mark.parametrize(
    ("server", "pieces", "calls"),
    [
        ({}, WORDS, 1),
        ({"script": ["half"]}, WORDS, 2),  # the repeated request goes on where the stream broke off
        ({"streams": False}, ["echo you there"], 1),
        ({"refuse": refuse_streams}, ["echo you there"], 2),
    ],
)
def test_the_text_of_a_reply_comes_in_pieces(
    engine: Callable[[FaultyServer], ChatModelEngine], server: dict[str, Any], pieces: list[str], calls: int
) -> None:
    with FaultyServer(**server) as running:
        opened = engine(running)
        assert pieces_of(opened) == (pieces, "echo you there")
        assert len(running.calls) == calls
        assert pieces_of(opened) == (["echo you there"], "echo you there")  # from the response cache
        assert len(running.calls) == calls


@pytest.mark.parametrize("succeeded", [False, True])
def test_a_server_that_refuses_streams_is_asked_once_for_one(
    engine: Callable[[FaultyServer], ChatModelEngine], succeeded: bool
) -> None:
    with FaultyServer(refuse=refuse_streams) as running:
        opened = engine(running)
        if succeeded:  # the client now takes a refusal for that of one request
            opened.sample("theirs", [Prompt(PROMPT.messages, ("another",))], SAMPLING)
        for number in range(3):
            text = f"number {number}"
            prompt = Prompt(({"role": "user", "content": text},), ("chat", number, 0))
            pieces: list[str] = []
            ((sample,),) = opened.sample("theirs", [prompt], SAMPLING, on_text=pieces.append)
            assert [sample.text] == pieces == [f"echo {text}"]
        assert sum(bool(call.body.get("stream")) for call in running.calls) == 1


def test_only_the_first_sample_streams(engine: Callable[[FaultyServer], ChatModelEngine]) -> None:
    with FaultyServer() as running:
        pieces: list[str] = []
        (samples,) = engine(running).sample("theirs", [PROMPT], SAMPLING, 3, on_text=pieces.append)
        assert pieces == WORDS and [sample.text for sample in samples] == ["echo you there"] * 3
        assert [bool(call.body.get("stream")) for call in running.calls] == [True, False, False]


def test_an_exception_of_on_text_stops_the_reply(engine: Callable[[FaultyServer], ChatModelEngine]) -> None:
    def stop(piece: str) -> None:
        raise KeyboardInterrupt

    with FaultyServer() as running:
        opened = engine(running)
        with pytest.raises(KeyboardInterrupt):
            opened.sample("theirs", [PROMPT], SAMPLING, on_text=stop)
        assert pieces_of(opened)[1] == "echo you there"


def test_a_refusal_for_another_reason_is_an_error(engine: Callable[[FaultyServer], ChatModelEngine]) -> None:
    with (
        FaultyServer(status=(401, {"error": {"message": "no such key"}})) as running,
        pytest.raises(RequestRejectedError, match="no such key"),
    ):
        pieces_of(engine(running))
