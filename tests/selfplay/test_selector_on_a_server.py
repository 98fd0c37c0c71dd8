"""A search with a language model as selector on a failing server: the same rows, every response billed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer
from live_program import MODEL

from sage_dialog.config import Caps
from sage_dialog.core.tables import to_rows
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget, CapReachedError
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.roles.llm.selector import LLMSelector
from sage_dialog.selfplay.search import search

PROMPT = Path(__file__).parents[2] / "conf/base/prompts/selector_companion.txt"


def answer(body: dict[str, Any]) -> str:
    """Return one of the first two candidates or none, as a function of the request."""
    return ("1", "2", "none", "1", "none")[int(hashlib.sha256(repr(body["messages"]).encode()).hexdigest()[:6], 16) % 5]


@pytest.fixture
def server(short_waits: None) -> Iterator[FaultyServer]:
    with FaultyServer(reply=answer, share=0.2, latency_s=0.002) as running:
        yield running


@pytest.fixture
def run_search(policies, situations, search_config, tmp_path, server) -> Callable[..., Any]:
    def run(engine: Any, scratch: str, at_once: int = 3, caps: Caps | None = None) -> Any:
        response_cache = ResponseCache(tmp_path / scratch / "responses.sqlite")
        endpoint = Endpoint(base_urls=(server.url,), model=MODEL, sampling={"max_tokens": 50}, timeout_s=10)
        client = LiveClient(endpoint, response_cache, Budget(caps or Caps(), {}, {}))
        config = search_config.model_copy(update={"shard_size": 2, "shards_at_once": at_once, "redraws": 1})
        table, players = (
            situations([f"My bike was stolen, for the {n}. time." for n in range(8)]),
            list(policies.values()),
        )
        try:
            tables = search(engine, *players, table, config, {}, LLMSelector(client, PROMPT), 0, tmp_path / scratch)
            return tuple(map(to_rows, tables))
        finally:
            loop.run(client.close())
            response_cache.close()

    return run


def hashed_utterance(say: Callable[..., str]) -> Callable[..., str]:
    def reply(policy: str, prompt: Any, j: int) -> str:
        return say(f"{policy} {hashlib.sha256(repr((prompt, j)).encode()).hexdigest()[:6]}.")

    return reply


def test_rows_do_not_depend_on_the_order_of_shards(run_search, engine, say, server) -> None:
    sequential = run_search(engine(hashed_utterance(say)), "one", at_once=1)
    calls = server.paid
    assert run_search(engine(hashed_utterance(say)), "three", at_once=3) == sequential
    assert set(server.paid) == set(calls) and set(server.paid.values()) == {2}
    outcomes = {row["outcome"] for row in sequential[1]}
    assert {"turn limit", "no good candidate"} <= outcomes


def test_after_a_cap_or_an_error_of_the_engine_no_request_is_repeated(run_search, engine, say, server) -> None:
    expected = run_search(engine(hashed_utterance(say)), "whole")
    calls = set(server.paid)
    server.calls.clear()

    with pytest.raises(CapReachedError):
        run_search(engine(hashed_utterance(say)), "stopped", caps=Caps(calls=12))
    count = 0

    def fail(policy: str, prompt: Any, j: int) -> str:
        nonlocal count
        count += 1
        if count > 60:
            raise InterruptedError
        return hashed_utterance(say)(policy, prompt, j)

    with pytest.raises(InterruptedError):
        run_search(engine(fail), "stopped")
    assert run_search(engine(hashed_utterance(say)), "stopped") == expected
    assert set(server.paid) == calls and set(server.paid.values()) == {1}
