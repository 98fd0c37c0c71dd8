"""Requests that a server refuses: one row's failure, a field that it does not support, or the end of the run."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from faulty_server import FaultyServer
from live_program import MODEL, request, texts

from sage_dialog.config import Caps, Price
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import FailureReason, RequestFailedError, RequestRejectedError
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.llm.server_errors import error_message, unsupported_field

Serve = Callable[..., FaultyServer]
MakeClient = Callable[..., LiveClient]

TOO_LONG = {
    "OpenAI": {"error": {"message": "too many", "type": "invalid_request_error", "code": "context_length_exceeded"}},
    "Together": {"error": {"message": "Input is longer than the model's context length of 8193 tokens."}},
    "SGLang": {"object": "error", "message": "The input (9 tokens) is longer than the model's context length (8)."},
    "vLLM": {
        "error": {"message": "You passed 9 input tokens and requested 5. However, the model's context length is 8"}
    },
    "Ollama": {"error": {"message": "the input length exceeds the context length", "type": "api_error"}},
    "TGI": {
        "error": "Input validation error: `inputs` must have less than 8 tokens. Given: 9",
        "error_type": "validation",
    },
    "TGI, both": {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8. Given: 9"},
    "Gemini": [
        {
            "error": {
                "message": "The input token count (9) exceeds the maximum number of tokens allowed (8).",
                "status": "INVALID_ARGUMENT",
            }
        }
    ],
    "Anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}},
    "llama.cpp": {
        "error": {"message": "the request exceeds the available context size", "type": "exceed_context_size"}
    },
    "Mistral": {
        "detail": [{"loc": ["body"], "msg": "Prompt contains 9 tokens, too large for the maximum context length"}]
    },
    "plain text": "Requested tokens exceed context window of 8",
}
FILTERED = {
    "OpenAI": (400, {"error": {"message": "Invalid prompt: limited access", "code": "invalid_prompt"}}),
    "Azure": (400, {"error": {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    "DeepSeek": (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}),
    "Qwen": (
        400,
        {"error": {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"}},
    ),
    "OpenRouter": (403, {"error": {"message": "Your input was flagged", "code": 403}}),
}


def is_third(body: dict[str, Any]) -> bool:
    return str(body["messages"][-1]["content"]) == "item 3"


@pytest.mark.parametrize("provider", TOO_LONG)
def test_every_wording_of_a_prompt_that_is_too_long(serve: Serve, make_client: MakeClient, provider: str) -> None:
    body = TOO_LONG[provider]
    server = serve(refuse=lambda _: (400, body if isinstance(body, str) else json.dumps(body)))
    assert list(texts(make_client(server.url), [1])) == [FailureReason.TOO_LONG]


@pytest.mark.parametrize("provider", FILTERED)
def test_every_wording_of_a_filtered_prompt(serve: Serve, make_client: MakeClient, provider: str) -> None:
    status, body = FILTERED[provider]
    server = serve(refuse=lambda _: (status, json.dumps(body)))
    assert list(texts(make_client(server.url), [1])) == [FailureReason.PROMPT_FILTERED]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("concurrency", [1, 16])
def test_one_refused_request_among_others_fails_alone(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, status: int, concurrency: int
) -> None:
    """Whether it is refused before or after the first success, and also where only it is left to request."""
    server = serve(refuse=lambda body: (status, '{"detail": "I see"}') if is_third(body) else None)
    items = [3, *range(3), *range(4, 40)]
    expected = [FailureReason.REJECTED, *(f"echo item {item}" for item in items[1:])]
    assert list(texts(make_client(server.url, concurrency=concurrency), items)) == expected
    assert list(texts(make_client(server.url), [*items[1:], 3])) == [*expected[1:], FailureReason.REJECTED]
    assert {reason for _, reason, _ in response_cache.failures()} == {FailureReason.REJECTED}
    with pytest.raises(RequestFailedError, match="I see"):
        loop.run(_both(make_client(server.url)))


async def _both(client: LiveClient) -> None:
    await client.request(request(client, 1))
    await client.request(request(client, 3))


def test_refused_requests_end_the_run_where_none_succeeds(serve: Serve, make_client: MakeClient) -> None:
    server = serve(refuse=lambda body: (400, "no such thing"), latency_s=0.01)
    with pytest.raises(RequestRejectedError, match=r"refused the request \(400\): no such thing"):
        list(texts(make_client(server.url, concurrency=8), range(1000)))
    assert len(server.calls) < 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"error": {"message": "a", "code": "b"}}', "a"),
        ('{"error": "a"}', "a"),
        ('{"detail": "a"}', "a"),
        (
            '{"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]}',
            "body.top_k: Extra inputs are not permitted",
        ),
        ('[{"error": {"message": "a"}}]', "a"),
        ('["a", "b"]', "a; b"),
        ("<html><style>p {}</style><h1>a</h1> <p>b</p></html>", "a b"),
        ("plain\ntext", "plain text"),
        ('{"odd": 1}', '{"odd": 1}'),
        ("", ""),
    ],
)
def test_the_message_of_an_error_in_any_form(text: str, message: str) -> None:
    assert error_message(text)[0] == message


BODY = {
    "model": "m",
    "messages": [],
    "max_completion_tokens": 9,
    "reasoning_effort": "none",
    "temperature": 0,
    "seed": 1,
}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Unsupported parameter: 'max_completion_tokens' is not supported with this model.", "max_completion_tokens"),
        ("Unrecognized request argument supplied: reasoning_effort", "reasoning_effort"),
        ("body.reasoning_effort: Extra inputs are not permitted", "reasoning_effort"),
        ("Unexpected fields in the request: {'seed'}", "seed"),
        ("'temperature' does not support 0 with this model. Only the default (1) is supported.", "temperature"),
        ("temperature must be between 0 and 2", None),
        ("top_k is not supported", None),
        ("no", None),
        ("model m is not supported", None),
    ],
)
def test_the_field_that_a_server_does_not_support(message: str, field: str | None) -> None:
    assert unsupported_field(message, BODY) == field


def test_fields_that_a_server_does_not_support_are_left_out(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(body: dict[str, Any]) -> tuple[int, str] | None:
        for field in ("reasoning_effort", "max_completion_tokens", "response_format"):
            if field in body:
                return 400, json.dumps({"error": {"message": f"Unsupported parameter: '{field}'", "param": field}})
        return None

    server = serve(refuse=refuse)
    sampling = {"reasoning_effort": "none", "max_completion_tokens": 50, "temperature": 0}
    client = make_client(server.url, sampling=sampling, attempts=1, concurrency=4)
    schema = {"type": "object"}

    async def text(item: int) -> str:
        return (await client.request(client.chat_request("judge", _messages(item), schema))).text

    assert list(client.map(text, range(30))) == [f"echo item {item}" for item in range(30)]
    (sent,) = {tuple(sorted(call.body)) for call in server.calls if call.outcome == "reply"}
    assert sent == ("max_tokens", "messages", "model", "temperature")
    assert len(server.calls) <= 30 + 3 * 4
    warnings = [record.message for record in caplog.records if "does not support" in record.message]
    assert len(warnings) == 3 and any("sent as max_tokens" in warning for warning in warnings)
    calls = len(server.calls)
    again = make_client(server.url, sampling=sampling)  # the cache key is that of the request
    assert all(again.chat_request("judge", _messages(item), schema) in response_cache for item in range(30))
    assert len(server.calls) == calls


def test_a_limit_on_tokens_is_never_left_out(serve: Serve, make_client: MakeClient) -> None:
    server = serve(refuse=lambda body: (400, f"Unsupported parameters: {sorted(body)}"))
    client = make_client(server.url, sampling={"max_tokens": 9})
    with pytest.raises(RequestRejectedError, match="Unsupported"):
        list(texts(client, range(3)))
    assert {frozenset(call.body) & {"max_tokens", "max_completion_tokens"} for call in server.calls} == {
        frozenset({"max_tokens"}),
        frozenset({"max_completion_tokens"}),
    }


def _messages(item: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"item {item}"}]


@pytest.mark.parametrize(
    ("sampling", "calls", "seeds"),
    [({"temperature": 0}, 1, 1), ({"temperature": 0.7, "seed": 5}, 3, 3), ({"temperature": 0.7}, 3, 1)],
)
def test_an_unusable_response_is_requested_anew_only_where_it_can_differ(
    serve: Serve, make_client: MakeClient, sampling: dict[str, Any], calls: int, seeds: int
) -> None:
    server = serve(faults=["truncated"], share=1.0)
    client = make_client(server.url, sampling={**sampling, "max_tokens": 50})
    assert list(texts(client, [1])) == [FailureReason.TRUNCATED]
    assert (len(server.calls), len({call.body.get("seed") for call in server.calls})) == (calls, seeds)


def test_an_error_with_the_status_200_is_read(serve: Serve, make_client: MakeClient) -> None:
    def fail(answer: dict[str, Any]) -> None:
        answer.clear()
        answer["error"] = {"message": "upstream is down", "code": 502}

    client = make_client(serve(change=fail).url, attempts=2)
    with pytest.raises(RequestFailedError, match="upstream is down"):
        loop.run(client.request(request(client, 1)))


@pytest.mark.parametrize("usage", [{"prompt_tokens": -5, "completion_tokens": -5}, {"prompt_tokens": 10**15}])
def test_absurd_numbers_of_tokens_are_replaced(
    serve: Serve,
    make_client: MakeClient,
    usage: dict[str, int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sage_dialog.llm.answers._implausible", set())
    client = make_client(serve(change=lambda answer: answer["usage"].update(usage)).url)
    assert list(texts(client, range(3))) == [f"echo item {item}" for item in range(3)]
    assert 0 < client.budget.spent()["tokens"] < 1000
    assert caplog.text.count("replaced by the upper bound") == len(usage)


@pytest.mark.parametrize(("cached", "cost"), [(None, 10.0), (4, 6.4), (10**9, 1.0), (-4, 10.0), ("4", 10.0)])
def test_cached_prompt_tokens_have_their_own_price(
    serve: Serve, make_client: MakeClient, cached: object, cost: float
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": cached}}
    server = serve(change=lambda answer: answer.update(usage=usage))
    prices = {MODEL: Price(prompt=1e6, cached_prompt=1e5, completion=1.0)}
    client = make_client(server.url, budget=Budget(Caps(), {}, prices))
    assert list(texts(client, [1])) == ["echo item 1"]
    assert client.budget.spent()["money"] == pytest.approx(cost)


def test_the_estimate_is_corrected_by_the_first_replies(
    serve: Serve, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = make_client(serve().url, sampling={"max_tokens": 4000})
    client.log_estimate(request(client, item) for item in range(100))
    list(texts(client, range(100)))
    (corrected,) = (record for record in caplog.records if "as the first" in record.message)
    prompt, completion = (int(text.replace(",", "")) for text in corrected.args[3:5])
    assert 0.5 < (prompt + completion) / client.budget.spent()["tokens"] < 2


def test_the_pace_follows_the_tokens_that_calls_take(serve: Serve, make_client: MakeClient) -> None:
    """A limit on tokens far above the usual length of a response must not hold calls back."""
    client = make_client(serve().url, sampling={"max_tokens": 4000})
    first = client._expected_tokens(request(client, 0))
    list(texts(client, range(200)))
    assert first > 2000 and client._expected_tokens(request(client, 0)) < 100
