"""Clients, faulty servers, and short waits between attempts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer
from live_program import MODEL

from sage_dialog.config import Caps
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm import live_client as live_client_module
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache


@pytest.fixture(autouse=True)
def _short_waits(short_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_client_module, "_POLL_S", 0.01)


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultyServer]]:
    """Start a server; the arguments are those of `FaultyServer`."""
    with ExitStack() as servers:
        yield lambda **how: servers.enter_context(FaultyServer(**how))


@pytest.fixture
def response_cache(tmp_path: Path) -> Iterator[ResponseCache]:
    response_cache = ResponseCache(tmp_path / "responses.sqlite")
    yield response_cache
    response_cache.close()


@pytest.fixture
def make_client(response_cache: ResponseCache) -> Iterator[Callable[..., LiveClient]]:
    """A client of one or more servers, on the test's response cache; further arguments are those of `Endpoint`."""
    clients = []

    def create(
        *urls: str, budget: Budget | None = None, response_cache: ResponseCache = response_cache, **endpoint: Any
    ) -> LiveClient:
        fields = {"base_urls": urls, "model": MODEL, "sampling": {"max_tokens": 50}, "timeout_s": 10} | endpoint
        client = LiveClient(Endpoint.model_validate(fields), response_cache, budget or Budget(Caps(), {}, {}))
        clients.append(client)
        return client

    yield create
    for client in clients:
        loop.run(client.close())
