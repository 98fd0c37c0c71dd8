"""One call for each request; several servers; cancellation."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer
from live_program import claims, reasons, request, texts

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm import retries
from sage_dialog.llm.live_client import LiveClient, RateLimit
from sage_dialog.llm.requests import ChatRequest, FailureReason
from sage_dialog.llm.response_cache import ResponseCache

Serve = Callable[..., FaultyServer]
MakeClient = Callable[..., LiveClient]


def test_the_concurrency_limit_holds_and_is_used(serve: Serve, make_client: MakeClient) -> None:
    server = serve(latency_s=0.02)
    list(texts(make_client(server.url, concurrency=8), range(100)))
    assert server.most_in_flight == 8


def test_servers_share_the_load(serve: Serve, make_client: MakeClient) -> None:
    servers = [serve(latency_s=0.03) for _ in range(3)]
    client = make_client(*(server.url for server in servers), concurrency=4)
    assert list(texts(client, range(120))) == [f"echo item {item}" for item in range(120)]
    assert sum(len(server.calls) for server in servers) == 120
    assert min(len(server.calls) for server in servers) >= 20
    assert max(server.most_in_flight for server in servers) == 4


def test_a_slow_server_delays_only_its_own_calls(serve: Serve, make_client: MakeClient) -> None:
    quick, slow = serve(), serve()
    slow.hold()
    client = make_client(quick.url, slow.url, concurrency=4)

    async def send_all() -> None:
        tasks = [asyncio.create_task(client.request(request(client, item))) for item in range(200)]
        while len(quick.paid) < 196:
            await asyncio.sleep(0.005)
        assert len(slow.calls) == 4
        slow.release()
        await asyncio.gather(*tasks)

    loop.run(asyncio.wait_for(send_all(), 20))


@pytest.mark.parametrize(("concurrency", "sent"), [(1, 1), (7, 7), (16, 18)])
def test_a_kill_loses_no_more_than_the_slots_and_an_eighth(
    serve: Serve,
    make_client: MakeClient,
    response_cache: ResponseCache,
    monkeypatch: pytest.MonkeyPatch,
    concurrency: int,
    sent: int,
) -> None:
    """While the disk takes no response, so many calls are paid for and none more is sent."""
    server = serve()
    client = make_client(server.url, concurrency=concurrency)
    on_disk, save = asyncio.Event(), response_cache.save

    async def save_later(*arguments: Any) -> None:
        await on_disk.wait()
        await save(*arguments)

    monkeypatch.setattr(response_cache, "save", save_later)

    async def send_all() -> None:
        tasks = [asyncio.create_task(client.request(request(client, item))) for item in range(40)]
        while len(server.paid) < sent:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert len(server.calls) == sent
        on_disk.set()
        await asyncio.gather(*tasks)

    loop.run(asyncio.wait_for(send_all(), 20))
    assert len(server.calls) == 40


def test_a_dead_server_loses_no_request(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(retries, "_MAX_WAIT_S", 60)
    server = serve()
    client = make_client("http://127.0.0.1:9/v1", server.url, concurrency=4, attempts=6)
    assert list(texts(client, range(200))) == [f"echo item {item}" for item in range(200)]
    assert 4 <= reasons(response_cache)[FailureReason.UNREACHABLE] < 20  # it was probed a few times


def test_a_server_that_comes_back_is_used_again(serve: Serve, make_client: MakeClient) -> None:
    server = serve()
    port = server.port
    client = make_client(server.url, attempts=50)
    assert len(list(texts(client, range(10)))) == 10
    server.__exit__()
    lost = texts(client, range(10, 11))
    other = FaultyServer(port=port)

    async def start_later() -> None:
        await asyncio.sleep(0.05)
        await asyncio.to_thread(other.__enter__)

    started = asyncio.run_coroutine_threadsafe(start_later(), loop._loop())
    assert list(lost) == ["echo item 10"]
    started.result()
    assert client.servers[0].limit.limit >= 1 and len(other.calls) == 1
    other.__exit__()


def test_equal_concurrent_requests_share_one_call(serve: Serve, make_client: MakeClient) -> None:
    server = serve(latency_s=0.01)
    assert list(texts(make_client(server.url), [1] * 50)) == ["echo item 1"] * 50
    assert len(server.calls) == 1


def test_samples_and_fields_make_different_requests(serve: Serve, make_client: MakeClient) -> None:
    server = serve()
    client = make_client(server.url)
    messages = [{"role": "user", "content": "hello"}]
    requests = [
        client.chat_request("judge", messages),
        client.chat_request("judge", messages, sample=1),
        client.chat_request("judge", messages, schema={"type": "object"}),
        client.chat_request("judge", [{"role": "system", "content": "hello"}]),
        make_client(server.url, model="another").chat_request("judge", messages),
        make_client(server.url, sampling={"max_tokens": 51}).chat_request("judge", messages),
    ]
    assert len({one.key for one in requests}) == len(requests)
    assert client.chat_request("selector", messages).key == requests[0].key  # the role does not matter
    for one in requests:
        loop.run(client.request(one))
    assert len(server.calls) == len(requests)


def test_the_schema_is_sent_if_servers_enforce_it(serve: Serve, make_client: MakeClient) -> None:
    server = serve()
    for json_schema in (True, False):
        client = make_client(server.url, json_schema=json_schema)
        loop.run(client.request(client.chat_request("judge", [{"role": "user", "content": "x"}], {"type": "object"})))
    with_schema, without = (call.body for call in server.calls)
    assert with_schema["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "response_format" not in without
    assert with_schema["max_tokens"] == 50


def test_a_cancelled_waiter_does_not_cancel_the_call_of_another(serve: Serve, make_client: MakeClient) -> None:
    server = serve()
    server.hold()
    client = make_client(server.url)

    async def run() -> str:
        chat_request = request(client, 1)
        one, other = (
            asyncio.create_task(client.request(chat_request)),
            asyncio.create_task(client.request(chat_request)),
        )
        while not server.in_flight:
            await asyncio.sleep(0.001)
        one.cancel()
        await asyncio.sleep(0.01)
        server.release()
        return (await other).text

    assert loop.run(run()) == "echo item 1"
    assert len(server.calls) == 1


def test_the_response_to_a_cancelled_call_is_saved_and_not_requested_twice(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache
) -> None:
    server = serve()
    server.hold()
    client = make_client(server.url)

    async def run() -> str:
        chat_request = request(client, 1)
        cancelled = asyncio.create_task(client.request(chat_request))
        while not server.in_flight:
            await asyncio.sleep(0.001)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        second = asyncio.create_task(client.request(chat_request))  # while the first call is in flight
        await asyncio.sleep(0.02)
        server.release()
        return (await second).text

    assert loop.run(run()) == "echo item 1"
    assert len(server.calls) == 1


def test_stopping_saves_calls_in_flight_and_sends_no_more(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache
) -> None:
    server = serve(latency_s=0.02)
    client = make_client(server.url, concurrency=4)
    results = texts(client, range(100))
    assert next(results) == "echo item 0"
    results.close()
    assert len(server.calls) < 12
    assert len(list(response_cache.entries())) == len(server.calls) == len(server.paid)
    assert not client._fetches and not client._claimed
    assert claims(response_cache) == 0
    assert len(list(texts(client, range(100)))) == 100  # the next run continues at once
    assert len(server.calls) == 100


def test_claims_of_cancelled_and_failed_calls_are_released(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache
) -> None:
    server = serve(script=["500"] * 9)
    client = make_client(server.url, attempts=2)
    list(texts(client, range(5)))
    assert claims(response_cache) == 0


@pytest.mark.parametrize(("a_minute", "burst"), [(600, 60), (5, 1)])
def test_rate_limit_bursts(a_minute: float, burst: int) -> None:
    """A tenth of a minute's amount at once, the rest evenly."""
    rate_limit = RateLimit(a_minute)
    assert rate_limit._limiter.max_rate == burst
    assert rate_limit._limiter.max_rate / rate_limit._limiter.time_period == pytest.approx(a_minute / 60)


def test_an_amount_above_the_burst_counts_in_full() -> None:
    async def run() -> float:
        rate_limit = RateLimit(60_000)  # 6,000 at once, a thousand a second
        now = asyncio.get_running_loop().time
        began = now()
        await rate_limit.acquire(6_300)
        return now() - began

    assert loop.run(run()) > 0.25


def test_tokens_have_an_upper_bound() -> None:
    content = "ΑΒ" * 50
    messages = ({"role": "user", "content": content},)
    chat_request = ChatRequest("judge", "m", messages, {"max_tokens": 7}, {"type": "object"})
    assert chat_request.max_prompt_tokens >= len(content.encode()) + len('{"type": "object"}')
    assert chat_request.max_completion_tokens == 7


def test_the_retry_of_a_call_goes_before_new_ones(serve: Serve, make_client: MakeClient) -> None:
    server = serve(script=["500"], latency_s=0.001)
    client = make_client(server.url, concurrency=2)
    list(texts(client, range(100)))
    sent = [int(call.body["messages"][-1]["content"].split()[1]) for call in server.calls]
    gaps: Counter[int] = Counter()
    for item in range(100):
        first, second = (position for position, one in enumerate(sent) if one == item)
        gaps[second - first] += 1
    assert max(gaps) < 100  # at the end of the queue it would be about 100


@pytest.mark.parametrize("written", ["http://{}", "{}"])
def test_calls_go_through_a_proxy_with_the_key(
    serve: Serve, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, written: str
) -> None:
    """A ~/.netrc with an entry for the host does not replace the key."""
    server = serve()
    (tmp_path / "netrc").write_text("machine models.invalid login someone password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", written.format(f"127.0.0.1:{server.port}"))
    monkeypatch.setenv("no_proxy", "direct.invalid")
    client = make_client("http://models.invalid/v1", api_key="sk-0123456789", attempts=2)
    assert list(texts(client, [1])) == ["echo item 1"]
    assert server.calls[0].headers["Authorization"] == "Bearer sk-0123456789"
    assert server.calls[0].headers["Host"] == "models.invalid"
    direct = make_client("http://direct.invalid/v1", attempts=1)
    assert list(texts(direct, [2])) == [FailureReason.UNREACHABLE]
