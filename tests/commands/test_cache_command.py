"""`kedro sage cache`: what it shows, exports and drops."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from sage_dialog.commands.cache import cache_summary, cache_tables, drop, export, forget
from sage_dialog.llm.requests import ChatRequest, FailureReason, LLMResponse, RequestFailedError
from sage_dialog.llm.response_cache import ResponseCache


def request(role: str, words: str, model: str = "big[bold]") -> ChatRequest:
    return ChatRequest(role, model, ({"role": "user", "content": words},), {"max_tokens": 5})


@pytest.fixture
def response_cache(tmp_path: Path) -> Iterator[ResponseCache]:
    response_cache = ResponseCache(tmp_path / "responses.sqlite")

    async def fill() -> None:
        for number in range(1200):
            await response_cache.keep(request("judge", f"pair {number}"), LLMResponse("A", 1000, 10), 0.01)
        await response_cache.keep(request("annotator", "é", "small"), LLMResponse("naïve", 7, 3), None)
        await response_cache.save_failure(
            request("judge", "x"), RequestFailedError(FailureReason.TRUNCATED, "after 5 tokens"), 9, 5, 0.5
        )

    asyncio.run(fill())
    response_cache.count_hit(request("judge", "pair 0"))
    yield response_cache
    response_cache.close()


def shown(response_cache: ResponseCache) -> str:
    console = Console(file=io.StringIO(), width=150)
    for part in cache_tables(response_cache):
        console.print(part)
    return " ".join(console.file.getvalue().split())


def test_it_shows_what_each_model_cost_each_role(response_cache: ResponseCache) -> None:
    text = shown(response_cache)
    assert "judge big[bold] 1,200 1 1 1,200,009 12,005 12.50" in text
    assert "annotator small 1 0 0 7 3 no price" in text
    assert "judge truncated 1" in text
    assert "0.0 MB" not in text and " MB" in text


def test_an_export_has_requests_and_replies(response_cache: ResponseCache, tmp_path: Path) -> None:
    result = CliRunner().invoke(export, [str(tmp_path / "out.jsonl"), "--role", "annotator"], obj=response_cache)
    assert result.exit_code == 0 and "replies written to" in result.output
    (line,) = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["reply"] == "naïve" and "é" in line
    assert entry["request"]["messages"] == [{"role": "user", "content": "é"}]
    assert entry["key"] == request("annotator", "é", "small").key


def test_what_is_dropped_is_asked_again_and_nothing_else(response_cache: ResponseCache) -> None:
    run = CliRunner()
    assert "Say which" in run.invoke(drop, [], obj=response_cache).output
    refused = run.invoke(drop, ["--role", "judge"], input="n\n", obj=response_cache)
    assert "paid for again when they are needed: 1,200" in refused.output and refused.exit_code == 1
    assert response_cache.get(request("judge", "pair 3")) is not None
    key = request("judge", "pair 3").key
    assert "dropped: 1\n" in run.invoke(drop, ["--key", key, "--yes"], obj=response_cache).output
    assert response_cache.get(request("judge", "pair 3")) is None
    assert "dropped: 1,199" in run.invoke(drop, ["--model", "big[bold]"], input="y\n", obj=response_cache).output
    assert response_cache.get(request("annotator", "é", "small")) is not None


def test_a_batch_that_is_lost_can_be_given_up(response_cache: ResponseCache) -> None:
    asked = [request("judge", "in a batch")]

    async def submit() -> None:
        await response_cache.open_batch("ours", "http://server/v1", "big", asked)
        await response_cache.mark_submitted("ours", "batch_17")

    asyncio.run(submit())
    assert "batch_17 big submitted" in shown(response_cache)
    run = CliRunner()
    assert "No batch batch_18" in run.invoke(forget, ["batch_18"], obj=response_cache).output
    assert run.invoke(forget, ["batch_17"], input="n\n", obj=response_cache).exit_code == 1
    assert not asyncio.run(response_cache.claim(asked[0]))
    assert "is forgotten" in run.invoke(forget, ["batch_17", "--yes"], obj=response_cache).output
    assert asyncio.run(response_cache.claim(asked[0]))
    assert "batch_17" not in shown(response_cache)


def test_a_script_gets_what_the_terminal_shows(response_cache: ResponseCache) -> None:
    told = json.loads(json.dumps(cache_summary(response_cache)))
    spent = {(one["role"], one["model"]): one for one in told["spent"]}
    assert spent["judge", "big[bold]"]["replies"] == 1200
    assert spent["annotator", "small"]["cost"] is None
    assert told["failures"] == [["judge", "truncated", 1]] and told["batches"] == []
    assert told["bytes"] > 0
