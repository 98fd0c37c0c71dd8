"""`kedro sage cache`: its tables, exports and deletions."""

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
            await response_cache.save(request("judge", f"pair {number}"), LLMResponse("A", 1000, 10), 0.01)
        await response_cache.save(request("annotator", "é", "small"), LLMResponse("naïve", 7, 3), None)
        await response_cache.save_failure(
            request("judge", "x"), RequestFailedError(FailureReason.TRUNCATED, "after 5 tokens"), 9, 5, 0.5
        )

    asyncio.run(fill())
    response_cache.get(request("judge", "pair 0"))
    yield response_cache
    response_cache.close()


def printed(response_cache: ResponseCache) -> str:
    console = Console(file=io.StringIO(), width=150)
    for part in cache_tables(response_cache):
        console.print(part)
    return " ".join(console.file.getvalue().split())


def test_the_tables_show_usage_by_role_and_model(response_cache: ResponseCache) -> None:
    text = printed(response_cache)
    assert "judge big[bold] 1,200 1 1 1,200,009 12,005 12.50" in text
    assert "annotator small 1 0 0 7 3 no price" in text
    assert "judge truncated 1" in text
    assert "0.0 MB" not in text and " MB" in text


def test_an_export_has_requests_and_responses(response_cache: ResponseCache, tmp_path: Path) -> None:
    result = CliRunner().invoke(export, [str(tmp_path / "out.jsonl"), "--role", "annotator"], obj=response_cache)
    assert result.exit_code == 0 and "responses written to" in result.output
    (line,) = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    entry = json.loads(line)
    assert entry["response"] == "naïve" and "é" in line
    assert entry["request"]["messages"] == [{"role": "user", "content": "é"}]
    assert entry["key"] == request("annotator", "é", "small").key


def test_only_selected_responses_are_dropped(response_cache: ResponseCache) -> None:
    run = CliRunner()
    assert "Select responses" in run.invoke(drop, [], obj=response_cache).output
    refused = run.invoke(drop, ["--role", "judge"], input="n\n", obj=response_cache)
    assert "Delete 1,200 responses" in refused.output and refused.exit_code == 1
    assert response_cache.get(request("judge", "pair 3")) is not None
    key = request("judge", "pair 3").key
    assert "dropped: 1\n" in run.invoke(drop, ["--key", key, "--yes"], obj=response_cache).output
    assert response_cache.get(request("judge", "pair 3")) is None
    assert "dropped: 1,199" in run.invoke(drop, ["--model", "big[bold]"], input="y\n", obj=response_cache).output
    assert response_cache.get(request("annotator", "é", "small")) is not None


def test_a_lost_batch_can_be_forgotten(response_cache: ResponseCache) -> None:
    batch = [request("judge", "in a batch")]

    async def submit() -> None:
        await response_cache.open_batch("ours", "http://server/v1", "big", batch)
        await response_cache.mark_submitted("ours", "batch_17")

    asyncio.run(submit())
    assert "batch_17 big submitted" in printed(response_cache)
    run = CliRunner()
    assert "No open batch batch_18" in run.invoke(forget, ["batch_18"], obj=response_cache).output
    assert run.invoke(forget, ["batch_17"], input="n\n", obj=response_cache).exit_code == 1
    assert not asyncio.run(response_cache.claim(batch[0]))
    assert "is forgotten" in run.invoke(forget, ["batch_17", "--yes"], obj=response_cache).output
    assert asyncio.run(response_cache.claim(batch[0]))
    assert "batch_17" not in printed(response_cache)


def test_the_json_summary_holds_the_content_of_the_tables(response_cache: ResponseCache) -> None:
    summary = json.loads(json.dumps(cache_summary(response_cache)))
    usage = {(one["role"], one["model"]): one for one in summary["usage"]}
    assert usage["judge", "big[bold]"]["responses"] == 1200
    assert usage["annotator", "small"]["cost"] is None
    assert summary["failures"] == [["judge", "truncated", 1]] and summary["batches"] == []
    assert summary["bytes"] > 0
