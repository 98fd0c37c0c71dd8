"""Each way in which a server fails, alone and all together, over real HTTP."""

import asyncio
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest
from faulty_server import EVERY_FAULT, TEMPORARY, UNUSABLE, FaultyServer
from live_program import reasons, request, texts

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm import live_client, retries
from sage_dialog.llm import server as server_module
from sage_dialog.llm.answers import retry_after
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import (
    FailureReason,
    RequestFailedError,
    RequestRejectedError,
    ServerUnreachableError,
)
from sage_dialog.llm.response_cache import ResponseCache

Serve = Callable[..., FaultyServer]
MakeClient = Callable[..., LiveClient]

TEMPORARY_REASONS = {
    "429": FailureReason.BUSY,
    "429 waits": FailureReason.BUSY,
    "500": FailureReason.BROKEN,
    "reset": FailureReason.BROKEN,
    "half": FailureReason.BROKEN,
    "no json": FailureReason.BROKEN,
    "never": FailureReason.TIMED_OUT,
    "trickles": FailureReason.TIMED_OUT,
}
UNUSABLE_REASONS = {
    "refused": FailureReason.REFUSED,
    "truncated": FailureReason.TRUNCATED,
    "empty": FailureReason.EMPTY,
    "filtered": FailureReason.FILTERED,
}


@pytest.mark.parametrize(("fault", "reason"), TEMPORARY_REASONS.items())
def test_temporary_failures_are_retried(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, fault: str, reason: FailureReason
) -> None:
    server = serve(script=[fault, fault])
    client = make_client(server.url, timeout_s=0.2)
    assert list(texts(client, [1])) == ["echo item 1"]
    assert [call.outcome for call in server.calls][-1] == "reply" and len(server.calls) == 3
    assert reasons(response_cache) == {reason: 2}


@pytest.mark.parametrize(("fault", "reason"), (TEMPORARY_REASONS | UNUSABLE_REASONS).items())
def test_the_last_reason_is_raised_after_all_attempts(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, fault: str, reason: FailureReason
) -> None:
    server = serve(script=["429"] + [fault] * 9)
    client = make_client(server.url, timeout_s=0.1, attempts=4, max_invalid_responses=2)
    assert list(texts(client, [1])) == [reason]
    calls = 4 if fault in TEMPORARY_REASONS else 3  # two unusable responses after the busy server
    assert len(server.calls) == calls
    expected = {FailureReason.BUSY: 1, reason: calls - 1} if reason != FailureReason.BUSY else {reason: calls}
    assert reasons(response_cache) == expected


def test_a_failure_is_never_returned_from_the_cache(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache
) -> None:
    server = serve(script=["truncated"])
    client = make_client(server.url, max_invalid_responses=1)
    assert list(texts(client, [1])) == [FailureReason.TRUNCATED]
    assert response_cache.get(request(client, 1)) is None
    (spent,) = response_cache.usage()
    assert (spent.responses, spent.failures) == (0, 1)
    assert spent.completion_tokens > 0  # it was paid for
    assert list(texts(client, [1])) == ["echo item 1"]


def test_an_unusable_response_is_kept_for_the_reject(serve: Serve, make_client: MakeClient) -> None:
    client = make_client(serve(script=["truncated"]).url, max_invalid_responses=1)
    with pytest.raises(RequestFailedError) as caught:
        loop.run(client.request(request(client, 1)))
    assert caught.value.response_text == "echo "


def test_an_unreachable_server(make_client: MakeClient, response_cache: ResponseCache) -> None:
    client = make_client("http://127.0.0.1:9/v1", attempts=3)
    assert list(texts(client, [1])) == [FailureReason.UNREACHABLE]
    assert reasons(response_cache) == {FailureReason.UNREACHABLE: 3}


def test_an_address_that_never_answers_ends_the_run(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_client, "_UNREACHABLE_S", 0.0)
    urls = "http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1"
    with pytest.raises(ServerUnreachableError, match=r"cannot be reached, and has not answered.*Check base_urls"):
        list(texts(make_client(*urls, attempts=1000), range(20)))


def test_a_server_that_has_answered_may_be_unreachable_for_long(
    serve: Serve, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(serve().url, "http://127.0.0.1:9/v1", attempts=1000)
    assert list(texts(client, range(5))) == [f"echo item {item}" for item in range(5)]
    monkeypatch.setattr(live_client, "_UNREACHABLE_S", 0.0)
    assert list(texts(client, range(30))) == [f"echo item {item}" for item in range(30)]


def test_pauses_say_how_long_and_why_and_a_second_outage_warns_again(
    serve: Serve, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "_LOGGED_PAUSE_S", 0.0)
    caplog.set_level("INFO")
    client = make_client(serve().url, concurrency=1)
    (server,) = client.servers
    gone = RequestFailedError(FailureReason.UNREACHABLE, "connection refused")
    for _ in range(2):
        caplog.clear()
        for call in range(1, 5):
            server.limit._backed_off_at = 0
            server.on_failure(call, gone)
            client._warn(server, gone)
        assert sum("logged every" in r.message for r in caplog.records if r.levelname == "WARNING") == 1
        assert list(texts(client, [time.monotonic()]))
        assert f"{server.address} answers again" in caplog.text
    caplog.clear()
    for call in range(10, 15):
        server.on_failure(call, RequestFailedError(FailureReason.BUSY, "slow down", wait_s=60))
    (pause,) = (record.message for record in caplog.records)
    assert re.fullmatch(r"http://\S+: no calls until \d\d:\d\d:\d\d \(60 s\), because .*slow down", pause)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_rejected_call_is_not_retried(serve: Serve, make_client: MakeClient, status: int) -> None:
    server = serve(status=(status, {"error": {"message": "no such thing", "code": "wrong"}}))
    client = make_client(server.url)
    with pytest.raises(
        RequestRejectedError, match=rf"127\.0\.0\.1:{server.port}/v1 refused the request \({status}\).*no such"
    ):
        loop.run(client.request(request(client, 1)))
    assert len(server.calls) == 1


def test_a_rejected_call_stops_the_run_while_other_calls_are_in_flight(serve: Serve, make_client: MakeClient) -> None:
    """The error of a later item is raised at once, while the first item still waits."""
    held, refusing = serve(), serve(status=(401, {"error": {"message": "wrong key"}}))
    held.hold()
    first, others = make_client(held.url), make_client(refusing.url, concurrency=2)

    async def send(item: int) -> str:
        client = others if item else first
        return (await client.request(request(client, item))).text

    with pytest.raises(RequestRejectedError, match="Check the key"):
        list(others.map(send, range(1000)))
    assert len(refusing.calls) <= 4
    held.release()
    loop.run(first.drain())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"message": "too many", "code": "context_length_exceeded"}, FailureReason.TOO_LONG),
        ({"message": "This model's maximum context length is 8 tokens.", "code": 400}, FailureReason.TOO_LONG),
        ({"message": "the request exceeds the available context size, try more", "code": 400}, FailureReason.TOO_LONG),
        ({"message": "no", "code": "content_filter"}, FailureReason.PROMPT_FILTERED),
    ],
)
def test_a_request_that_is_too_long_or_filtered_fails_its_row(
    serve: Serve, make_client: MakeClient, body: dict[str, Any], reason: FailureReason
) -> None:
    server = serve(status=(400, {"error": body}))
    assert list(texts(make_client(server.url), [1])) == [reason]
    assert len(server.calls) == 1


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_statuses_that_are_retried(serve: Serve, make_client: MakeClient, status: int) -> None:
    server = serve(status=(status, {"error": {"message": "later"}}))
    assert len(list(texts(make_client(server.url, attempts=3), [1]))) == 1
    assert len(server.calls) == 3


def test_an_empty_account_is_no_busy_server(serve: Serve, make_client: MakeClient) -> None:
    server = serve(status=(429, {"error": {"message": "pay", "code": "insufficient_quota"}}))
    with pytest.raises(RequestRejectedError, match="pay"):
        list(texts(make_client(server.url), [1]))
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_retry_after_date() -> None:
    wait_s = retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert wait_s == pytest.approx(100, abs=5)
    assert retry_after({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0


def test_nothing_is_sent_while_a_server_asks_to_wait(serve: Serve, make_client: MakeClient) -> None:
    server = serve(script=["429 waits"], retry_after={"retry-after": "60"})
    client = make_client(server.url, concurrency=1)

    async def send() -> None:
        tasks = [asyncio.create_task(client.request(request(client, item))) for item in range(5)]
        while not client.servers[0].limit.wait_s:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.drain()

    loop.run(send())
    assert len(server.calls) == 1
    assert 55 < client.servers[0].limit.wait_s <= 60


def test_lone_surrogates_are_removed(serve: Serve, make_client: MakeClient) -> None:
    """JSON can hold them; the response cache and tables cannot."""
    client = make_client(serve(reply=lambda body: "so \ud83d sad").url)
    assert list(texts(client, [1])) == ["so  sad"]


def test_a_response_of_the_wrong_form_is_returned(serve: Serve, make_client: MakeClient) -> None:
    """The role decides whether it is usable."""
    assert list(texts(make_client(serve(script=["wrong form"]).url), [1])) == ["Sure! Here you are: {"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_failures_do_not_change_a_thousand_responses(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, seed: int
) -> None:
    server = serve(share=0.2, seed=seed, faults=(*TEMPORARY, *UNUSABLE))
    client = make_client(server.url, attempts=30, max_invalid_responses=30, concurrency=32)
    assert list(texts(client, range(1000))) == [f"echo item {item}" for item in range(1000)]
    assert len(server.paid) == 1000 and set(server.paid.values()) == {1}
    assert sum(reasons(response_cache).values()) == len(server.calls) - 1000 > 100
    assert {call.outcome for call in server.calls} == {"reply", *TEMPORARY, *UNUSABLE}
    assert list(texts(client, range(1000))) == [f"echo item {item}" for item in range(1000)]
    assert len(server.calls) == sum(reasons(response_cache).values()) + 1000  # all cached


def test_every_item_has_a_response_or_a_reason(serve: Serve, make_client: MakeClient) -> None:
    server = serve(share=0.5, faults=[fault for fault in EVERY_FAULT if fault not in ("never", "wrong form")])
    client = make_client(server.url, attempts=3, max_invalid_responses=1, concurrency=32)
    outcomes = list(texts(client, range(300)))
    failed = [outcome for outcome in outcomes if isinstance(outcome, FailureReason)]
    assert [o for o in outcomes if not isinstance(o, FailureReason)] == [
        f"echo item {item}" for item, o in enumerate(outcomes) if not isinstance(o, FailureReason)
    ]
    assert len(outcomes) == 300 and 50 < len(failed) < 200
    assert set(server.paid.values()) == {1} and sum(server.paid.values()) == 300 - len(failed)


def test_waits_between_attempts_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """And there is none after an unusable response; what is not retryable is raised at once."""
    monkeypatch.setattr(retries, "_FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(retries, "_MAX_WAIT_S", 60.0)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(retries, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(retries, "random", SimpleNamespace(uniform=lambda low, high: low + high))

    async def run(reasons: list[FailureReason], attempts: int) -> int:
        failures = iter(reasons)

        async def call() -> int:
            if reason := next(failures, None):
                raise RequestFailedError(reason)
            return len(waits)

        return await retries.retry(call, attempts, lambda failure: failure.reason is not FailureReason.TOO_LONG)

    assert asyncio.run(run([FailureReason.BUSY] * 9, 10)) == 9
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    waits.clear()
    assert asyncio.run(run([FailureReason.BUSY, FailureReason.TRUNCATED, FailureReason.BUSY], 4)) == 3
    assert waits == [0.5, 0, 2]
    for failing, attempts, slept in (
        ([FailureReason.BUSY, FailureReason.BROKEN], 2, 1),
        ([FailureReason.TOO_LONG], 9, 0),
        ([FailureReason.BUSY] * 3000, 3000, 2999),
    ):
        waits.clear()
        with pytest.raises(RequestFailedError, match=str(failing[-1])):
            asyncio.run(run(failing, attempts))
        assert len(waits) == slept
