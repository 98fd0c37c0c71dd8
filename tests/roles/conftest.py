"""A model that says what a test wants, behind a real response cache and budget."""

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

PROMPTS = Path(__file__).parents[2] / "conf" / "base" / "prompts"


class Scripted(LLMClient):
    """Replies with what `say` returns for a request, and raises it where it is an error."""

    def __init__(self, say: Callable[[Request], str | Exception], *parts: Any) -> None:
        super().__init__(*parts)
        self.say = say
        self.asked: list[Request] = []
        self.announced: list[tuple[int, int | None]] = []

    async def request(self, request: Request) -> LLMResponse:
        self.asked.append(request)
        said = self.say(request)
        if isinstance(said, Exception):
            raise said
        return LLMResponse(said, 1, 1)

    async def drain(self) -> None:
        pass

    def log_estimate(self, requests: Any, calls: int | None = None) -> None:
        requests = list(requests)
        assert not self.asked or self.announced, "calls were made before they were announced"
        self.announced.append((len(requests), calls))
        super().log_estimate(requests, calls)


@pytest.fixture
def prompts() -> Path:
    return PROMPTS


@pytest.fixture
def scripted(tmp_path: Path) -> Any:
    """Makes clients: a function from a request to what is said, fields of the endpoint, a share that may fail."""
    response_cache = ResponseCache(tmp_path / "responses.sqlite")

    def make(say: Any = lambda request: "", *, max_failed_share: float = 1.0, **endpoint: Any) -> Scripted:
        fields = {"base_urls": ["http://secret.example:8000/v1"], "model": "gpt-5-mini", "api_key": "sk-secret-key"}
        return Scripted(
            say, Endpoint.model_validate(fields | endpoint), response_cache, Budget(Caps(), {}, {}), max_failed_share
        )

    yield make
    response_cache.close()
