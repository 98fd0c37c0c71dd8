"""Clients and the faulty servers that they ask. Waits between attempts are short here."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from asking import MODEL
from faulty_server import FaultyServer

from sage_dialog.llm import client as client_module
from sage_dialog.llm import loop
from sage_dialog.llm import server as server_module
from sage_dialog.llm.asker import Endpoint
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.client import Client
from sage_dialog.llm.journal import Journal
from sage_dialog.parameters import Caps


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(server_module, "_MOST_WAIT_S", 0.01)
    monkeypatch.setattr(client_module, "_POLL_S", 0.01)


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultyServer]]:
    """Start a server; the arguments are those of `FaultyServer`."""
    with ExitStack() as servers:
        yield lambda **how: servers.enter_context(FaultyServer(**how))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "replies.sqlite")
    yield journal
    journal.close()


@pytest.fixture
def make_client(journal: Journal) -> Iterator[Callable[..., Client]]:
    """A client of one or more servers, on the test's journal; further arguments are those of `Endpoint`."""
    made = []

    def create(*urls: str, budget: Budget | None = None, journal: Journal = journal, **endpoint: Any) -> Client:
        fields = {"base_urls": urls, "model": MODEL, "sampling": {"max_tokens": 50}, "timeout_s": 10} | endpoint
        client = Client(Endpoint.model_validate(fields), journal, budget or Budget(Caps(), {}, {}))
        made.append(client)
        return client

    yield create
    for client in made:
        loop.run(client.close())
