"""A client with scripted responses, a real response cache and a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_dialog.config import Caps
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.client import LLMClient
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import LLMResponse, Request
from sage_dialog.llm.response_cache import ResponseCache

PROMPTS = Path(__file__).parents[2] / "conf/base/prompts"


class Scripted(LLMClient):
    """Replies with the result of `reply` for a request, and raises it if it is an error."""

    def __init__(self, reply: Callable[[Request], str | Exception], *parts: Any) -> None:
        super().__init__(*parts)
        self.reply = reply
        self.requests: list[Request] = []
        self.estimates: list[tuple[int, int | None]] = []

    async def request(self, request: Request) -> LLMResponse:
        self.requests.append(request)
        response = self.reply(request)
        if isinstance(response, Exception):
            raise response
        return LLMResponse(response, 1, 1)

    async def drain(self) -> None:
        pass

    def log_estimate(self, requests: Any, max_calls: int | None = None) -> None:
        requests = list(requests)
        assert not self.requests or self.estimates, "calls were made before the estimate was logged"
        self.estimates.append((len(requests), max_calls))
        super().log_estimate(requests, max_calls)


@pytest.fixture
def prompts() -> Path:
    return PROMPTS


@pytest.fixture
def scripted(tmp_path: Path) -> Any:
    """Return a factory of clients from a function of a request, fields of the endpoint, and a share that may fail."""
    response_cache = ResponseCache(tmp_path / "responses.sqlite")

    def make(reply: Any = lambda request: "", *, max_failed_share: float = 1.0, **endpoint: Any) -> Scripted:
        fields = {"base_urls": ["http://secret.example:8000/v1"], "model": "gpt-5-mini", "api_key": "sk-secret-key"}
        return Scripted(
            reply, Endpoint.model_validate(fields | endpoint), response_cache, Budget(Caps(), {}, {}), max_failed_share
        )

    yield make
    response_cache.close()
