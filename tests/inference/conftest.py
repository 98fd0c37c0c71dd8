"""The tiny policies, servers that serve them, and engines over these servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tiny_policies

from sage_dialog.config import Caps, Price
from sage_dialog.core.policies import Policy
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm import server as server_module
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache

base, adapters = tiny_policies.base, tiny_policies.adapters


@pytest.fixture
def serve(base: Policy) -> Iterator[Callable[..., Any]]:
    """Start a server of the base, or of another policy; the arguments are those of `CompletionsServer`."""
    from completions_server import CompletionsServer

    from sage_dialog.inference.vllm.served_policies import served_name

    with ExitStack() as servers:
        yield lambda policy=base, name=None, **how: servers.enter_context(
            CompletionsServer(policy, name or served_name(policy), **how)
        )


@pytest.fixture
def open_engine(base: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """An engine over servers, with one response cache and short waits between attempts.

    Arguments: the policies, caps, prices, the endpoint's fields and the engine's arguments.
    """
    from sage_dialog.inference.vllm.completions_engine import CompletionsEngine

    monkeypatch.setattr(server_module, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(server_module, "_MAX_WAIT_S", 0.01)
    with ExitStack() as stack:
        own = ResponseCache(tmp_path / "responses.sqlite")
        stack.callback(own.close)

        def made(
            *urls: str,
            response_cache: ResponseCache = own,
            base: Policy = base,
            policies: tuple[Policy, ...] = (),
            seed: int = 0,
            caps: Caps | None = None,
            prices: Mapping[str, Price] | None = None,
            endpoint: dict[str, Any] | None = None,
            **of_engine: Any,
        ) -> CompletionsEngine:
            fields = {"base_urls": urls, "model": "policies", "concurrency": 8, "timeout_s": 20, **(endpoint or {})}
            client = LiveClient(
                Endpoint.model_validate(fields), response_cache, Budget(caps or Caps(), {}, prices or {})
            )
            stack.callback(lambda: loop.run(client.close()))
            return CompletionsEngine(base, policies, seed, client=client, **of_engine)

        yield made
