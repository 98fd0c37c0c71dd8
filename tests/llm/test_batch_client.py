"""Batches against a real HTTP server: queued, submitted once, collected, resubmitted.

Run as a program, it sends requests in a process that a test may kill: python test_batch_client.py URL CACHE ITEMS
"""

import asyncio
import logging
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from batch_server import KEY, BatchServer
from live_program import MODEL, reasons, request, texts

from sage_dialog.config import Caps, Price
from sage_dialog.llm import batch_api as api_module
from sage_dialog.llm import batch_client as batch_client_module
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.batch_client import BatchClient, BatchSettings
from sage_dialog.llm.budget import Budget, CapReachedError
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import FailureReason, RequestRejectedError
from sage_dialog.llm.response_cache import ResponseCache

Serve = Callable[..., BatchServer]
Make = Callable[..., BatchClient]
PRICES = {MODEL: Price(prompt=2.0, completion=4.0)}
HALF = (10 * 2.0 + 5 * 4.0) / 1e6 / 2  # of one reply of the server's


def make_batch_client(
    url: str, response_cache: ResponseCache, budget: Budget | None = None, **fields: Any
) -> BatchClient:
    own = {name: fields.pop(name) for name in BatchSettings.model_fields.keys() & fields.keys()}
    endpoint = {"base_urls": (url,), "model": MODEL, "api_key": KEY, "sampling": {"max_tokens": 50}} | fields
    return BatchClient(
        Endpoint.model_validate(endpoint),
        response_cache,
        budget or Budget(Caps(), {}, PRICES),
        settings=BatchSettings.model_validate({"poll_s": 0.01} | own),
    )


def echoes(items: range) -> list[str]:
    return [f"echo item {item}" for item in items]


@pytest.fixture(autouse=True)
def _no_sdk_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_SDK_RETRIES", 0)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as servers:
        yield lambda **how: servers.enter_context(BatchServer(**how))


@pytest.fixture
def make(response_cache: ResponseCache) -> Iterator[Make]:
    clients = []

    def create(url: str, response_cache: ResponseCache = response_cache, **fields: Any) -> BatchClient:
        clients.append(make_batch_client(url, response_cache, **fields))
        return clients[-1]

    yield create
    for client in clients:
        loop.run(client.close())


# Gathering


def test_concurrent_requests_form_one_batch_at_half_price(
    serve: Serve, make: Make, response_cache: ResponseCache
) -> None:
    server = serve()
    budget = Budget(Caps(), {}, PRICES)
    assert list(texts(make(server.url, budget=budget), range(30))) == echoes(range(30))
    assert server.submitted() == [[f"item {item}" for item in range(30)]]
    (spent,) = response_cache.usage()
    assert (spent.responses, spent.prompt_tokens, spent.failures) == (30, 300, 0)
    assert spent.cost == pytest.approx(30 * HALF)
    assert budget.spent() == {"calls": 30, "tokens": 450, "money": pytest.approx(30 * HALF)}
    assert [batch["state"] for batch in response_cache.batches()] == ["collected"]
    assert _rows(response_cache, "claims") == _rows(response_cache, "batch_requests") == 0
    assert list(texts(make(server.url), range(30))) == echoes(range(30))
    assert len(server.batches) == 1  # all responses were cached


def test_later_requests_form_the_next_batch(serve: Serve, make: Make) -> None:
    """Items with one request, with two, without any, and two with the same request."""
    server = serve()
    client = make(server.url)

    async def send(item: int) -> list[str]:
        if item % 5 == 4:
            return []
        replies = [(await client.request(request(client, min(item, 17)))).text]
        if item % 3 == 0:
            await asyncio.sleep(0)
            replies += [(await client.request(request(client, f"{item} repaired"))).text]
        return replies

    results = list(client.map(send, range(19)))
    assert results[3] == ["echo item 3", "echo item 3 repaired"] and results[4] == []
    assert results[17] == ["echo item 17"] and results[18] == ["echo item 17", "echo item 18 repaired"]
    first, second = server.submitted()
    assert len(first) == len(set(first)) == 15
    assert second == [f"item {item} repaired" for item in (0, 3, 6, 12, 15, 18)]


def test_an_item_with_two_concurrent_requests_counts_once(serve: Serve, make: Make) -> None:
    server = serve()
    client = make(server.url)

    async def send(item: int) -> list[str]:
        if item % 2:  # sends its requests after the others
            for _ in range(3):
                await asyncio.sleep(0)
        both = [client.request(request(client, f"{item} {order}")) for order in "ab"]
        return [reply.text for reply in await asyncio.gather(*both)]

    assert list(client.map(send, range(4)))[3] == ["echo item 3 a", "echo item 3 b"]
    assert len(server.submitted()) == 1


@pytest.mark.parametrize(("limit", "sizes"), [({"max_requests": 4}, [4, 4, 3]), ({"max_bytes": 900}, [3, 3, 3, 2])])
def test_a_batch_keeps_to_the_limits_of_the_server(
    serve: Serve, make: Make, limit: dict[str, int], sizes: list[int]
) -> None:
    server = serve()
    client = make(server.url, **limit)
    client.max_pending = 100
    assert list(texts(client, range(11))) == echoes(range(11))
    assert sorted(map(len, server.submitted()), reverse=True) == sizes


def test_what_fails_in_many_batches_is_sent_again_together(serve: Serve, make: Make) -> None:
    """Of ten full batches three of ten requests fail: a few more batches hold them, not one for each of the ten."""
    draw = random.Random(5)
    failing = {str(item): [500] for item in range(200) if draw.random() < 0.3}
    server = serve(script=failing)
    client = make(server.url, max_requests=20)
    client.max_pending = 200
    assert list(texts(client, range(200))) == echoes(range(200))
    sizes = [len(batch) for batch in server.submitted()]
    assert sum(sizes) == 200 + len(failing)
    assert len(sizes) <= 16 and sizes.count(20) >= 11


def test_more_items_than_max_pending_are_processed(serve: Serve, make: Make) -> None:
    server = serve()
    assert list(texts(make(server.url, max_requests=4), range(23))) == echoes(range(23))
    assert max(map(len, server.submitted())) <= 4 and set(server.paid.values()) == {1}


def test_an_item_that_waits_for_something_else_delays_a_batch_for_a_limited_time(
    serve: Serve, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_client_module, "_MAX_HOLD_S", 0.02)
    client = make(serve().url)
    replied = None

    async def send(item: int) -> str:
        nonlocal replied
        replied = replied or asyncio.Event()
        if item:
            await replied.wait()
        text = (await client.request(request(client, item))).text
        replied.set()
        return text

    assert list(client.map(send, range(2))) == echoes(range(2))


# Restarts


@pytest.mark.slow
@pytest.mark.parametrize("event", ["upload", "create", "poll", "download"])
def test_killed_at_any_moment_nothing_is_paid_twice(serve: Serve, make: Make, tmp_path: Path, event: str) -> None:
    server = serve(kill_at=event)
    for n in range(120):  # batches of other projects, on more than one page
        server.add(metadata={"project": f"{n}"}, input_file_id="none", endpoint="none", completion_window="24h")
    server.victim = subprocess.Popen(
        [sys.executable, __file__, server.url, str(tmp_path / "shared.sqlite"), "12"], stderr=subprocess.DEVNULL
    )
    assert server.victim.wait(240) == -9
    with closing(ResponseCache(tmp_path / "shared.sqlite")) as response_cache:
        assert len(response_cache.batches("submitting" if event in ("upload", "create") else "submitted")) == 1
        client = make(server.url, response_cache)
        assert list(texts(client, range(20))) == echoes(range(20))
        loop.run(client.close())
        assert server.paid == {f"item {item}": 1 for item in range(20)}
        parts = [{f"item {item}" for item in range(12)}, {f"item {item}" for item in range(12, 20)}]
        submitted = [set(batch) for batch in server.submitted()]
        assert len(submitted) == 2 and all(part in submitted for part in parts)
        assert [batch["state"] for batch in response_cache.batches()] == ["collected"] * 2


def test_a_batch_created_despite_a_500_is_found(serve: Serve, make: Make) -> None:
    server = serve(failing=Counter(create=1, list=1))
    assert list(texts(make(server.url), range(3))) == echoes(range(3))
    assert len(server.batches) == 1


def test_the_next_run_searches_for_a_batch_without_an_id(serve: Serve, make: Make) -> None:
    server = serve(failing=Counter(create=1, list=1))
    with pytest.raises(RequestRejectedError, match="the same command collects it"):
        list(texts(make(server.url, attempts=2), range(3)))
    assert list(texts(make(server.url), range(3))) == echoes(range(3))
    assert len(server.batches) == 1


def test_temporary_failures_are_retried(
    serve: Serve, make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "_SDK_RETRIES", 1)
    server = serve(failing=Counter(upload=1, poll=2, download=1))
    assert list(texts(make(server.url), range(3))) == echoes(range(3))
    assert len(server.batches) == 1 and "trying again" in caplog.text


def test_the_next_run_collects_a_batch_after_its_server_was_unreachable(serve: Serve, make: Make) -> None:
    server = serve(failing=Counter(poll=3))
    with pytest.raises(RequestRejectedError, match=r"the server failed.*the same command"):
        list(texts(make(server.url, attempts=2), range(3)))
    assert list(texts(make(server.url), range(3))) == echoes(range(3))
    assert len(server.batches) == 1


def test_the_next_run_collects_a_batch_after_an_error(
    serve: Serve, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_client_module, "_MAX_HOLD_S", 0.01)
    server = serve(polls=10**6)
    client = make(server.url)

    async def send(item: int) -> None:
        if item == 2:
            while not server.batches:
                await asyncio.sleep(0.01)
            raise ZeroDivisionError
        await client.request(request(client, item))

    with pytest.raises(ZeroDivisionError):
        list(client.map(send, range(3)))
    server.polls = server.batches["batch-0"]["polls"] + 2
    assert list(texts(client, range(2))) == echoes(range(2))
    assert len(server.batches) == 1


def test_two_processes_send_no_request_twice(serve: Serve, make: Make, response_cache: ResponseCache) -> None:
    """Each response cache has its own owner id, as in another process."""
    server = serve(polls=5)
    with closing(ResponseCache(response_cache.path)) as other:
        clients = [make(server.url, response_cache), make(server.url, other)]

        async def send(item: int) -> str:
            one = clients[item % 2]
            return (await one.request(request(one, item // 4))).text

        assert list(clients[0].map(send, range(40))) == [f"echo item {item // 4}" for item in range(40)]
        for one in clients:
            loop.run(one.close())
    assert server.paid == {f"item {item}": 1 for item in range(10)}


def test_live_calls_wait_for_an_open_batch_or_report_an_orphaned_one(
    serve: Serve, make: Make, response_cache: ResponseCache
) -> None:
    server = serve(polls=10**6)
    client = make(server.url)
    live = LiveClient(client.endpoint, response_cache, client.budget)

    async def both() -> tuple[str, str]:
        first = asyncio.create_task(client.request(request(client, 1)))
        while not server.batches:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(live.request(request(live, 1)))
        await asyncio.sleep(0.05)
        server.polls = server.batches["batch-0"]["polls"] + 1
        return (await first).text, (await second).text

    assert loop.run(both()) == ("echo item 1", "echo item 1")

    with closing(ResponseCache(response_cache.path)) as dead:
        loop.run(dead.open_batch("left", "http://elsewhere/v1", MODEL, [request(live, 2)]))
    for one in (live, client):
        with pytest.raises(RequestRejectedError, match=r"not collected.*mode: batch"):
            list(texts(one, [2, 3] if one is client else [2]))
    assert len(server.batches) == 1 and len(response_cache.batches("submitting")) == 1
    server.polls = 1
    assert list(texts(client, [3])) == ["echo item 3"]
    loop.run(live.close())


# Outcomes


def test_expired_requests_are_sent_again_and_the_others_saved(
    serve: Serve, make: Make, response_cache: ResponseCache
) -> None:
    server = serve(ends=["expired"])
    assert list(texts(make(server.url), range(10))) == echoes(range(10))
    assert server.submitted()[1] == [f"item {item}" for item in range(5, 10)]
    assert server.paid == {f"item {item}": 1 for item in range(10)}
    assert reasons(response_cache) == {FailureReason.EXPIRED: 5}


def test_requests_that_expire_in_every_round_fail(serve: Serve, make: Make, response_cache: ResponseCache) -> None:
    server = serve(ends=["expired"] * 9, done_share=0.0)
    assert list(texts(make(server.url, rounds=2), range(3))) == [FailureReason.EXPIRED] * 3
    assert len(server.batches) == 2 and reasons(response_cache) == {FailureReason.EXPIRED: 6}


UNUSABLE = {
    "truncated": FailureReason.TRUNCATED,
    "empty": FailureReason.EMPTY,
    "refused": FailureReason.REFUSED,
    "filtered": FailureReason.FILTERED,
}


@pytest.mark.parametrize(("outcome", "reason"), UNUSABLE.items())
def test_invalid_responses_are_billed_counted_and_requested_again(
    serve: Serve, make: Make, response_cache: ResponseCache, outcome: str, reason: FailureReason
) -> None:
    server = serve(script={"0": [outcome], "1": [outcome] * 9})
    client = make(server.url, max_invalid_responses=2, rounds=5)
    assert list(texts(client, range(3))) == ["echo item 0", reason, "echo item 2"]
    assert list(map(sorted, server.submitted())) == [["item 0", "item 1", "item 2"], ["item 0", "item 1"]]
    assert reasons(response_cache) == {reason: 3}
    (spent,) = response_cache.usage()
    assert spent.cost == pytest.approx(5 * HALF) == client.budget.spent()["money"]


@pytest.mark.parametrize(
    ("outcome", "reason", "paid"),
    [
        (500, FailureReason.BROKEN, 1),
        (429, FailureReason.BUSY, 1),
        ("request_timeout", FailureReason.TIMED_OUT, 1),
        ("half a line", FailureReason.BROKEN, 2),
        ("no line", FailureReason.BROKEN, 2),
    ],
)
def test_a_single_failed_request_is_sent_again_alone(
    serve: Serve, make: Make, response_cache: ResponseCache, outcome: str | int, reason: FailureReason, paid: int
) -> None:
    server = serve(script={"1": [outcome]})
    assert list(texts(make(server.url), range(3))) == echoes(range(3))
    assert server.submitted()[1:] == [["item 1"]] and reasons(response_cache) == {reason: 1}
    assert server.paid["item 1"] == paid


def test_permanent_failures_are_not_retried(serve: Serve, make: Make) -> None:
    server = serve(script={"1": ["context_length_exceeded"] * 9})
    assert list(texts(make(server.url), range(3))) == ["echo item 0", FailureReason.TOO_LONG, "echo item 2"]
    assert len(server.batches) == 1


def test_a_rejected_request_stops_the_run_and_the_other_responses_are_saved(
    serve: Serve, make: Make, response_cache: ResponseCache
) -> None:
    server = serve(script={"1": [401] * 9, "2": ["truncated"] * 9})
    client = make(server.url, budget=Budget(Caps(money=25 * HALF), {}, PRICES))
    with pytest.raises(RequestRejectedError, match=r"401.*not like this"):
        list(texts(client, range(6)))
    loop.run(client.close())
    assert server.submitted() == [["item 0", "item 1", "item 2"]]  # and no other batch
    assert _rows(response_cache, "responses") == 1 and _rows(response_cache, "batch_requests") == 0


def test_a_refused_request_among_others_fails_alone(serve: Serve, make: Make) -> None:
    server = serve(script={"1": [400] * 9})
    assert list(texts(make(server.url), range(3))) == ["echo item 0", FailureReason.REJECTED, "echo item 2"]
    assert len(server.batches) == 1
    with pytest.raises(RequestRejectedError, match=r"400.*not like this"):
        list(texts(make(serve(script={"7": [400] * 9}).url), [7]))


def test_unknown_and_repeated_lines_are_ignored(
    serve: Serve, make: Make, response_cache: ResponseCache, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(script={"1": ["twice"]})
    assert list(texts(make(server.url), range(3))) == echoes(range(3))
    assert len(server.batches) == 1 and _rows(response_cache, "responses") == 3 and "2 lines are ignored" in caplog.text


def test_a_rejected_batch_reports_its_reason_and_releases_its_requests(
    serve: Serve, make: Make, response_cache: ResponseCache
) -> None:
    server = serve(ends=["failed"], errors=[{"code": "invalid_field", "line": 2, "message": "no such field"}])
    budget = Budget(Caps(tokens=10_000), {}, PRICES)
    with pytest.raises(RequestRejectedError, match="line 2: no such field"):
        list(texts(make(server.url, budget=budget), range(3)))
    assert budget.spent()["tokens"] == 0 and response_cache.batches() == []
    assert list(texts(make(server.url), range(3))) == echoes(range(3))


def test_a_rejected_batch_of_an_earlier_run_does_not_stop_this_run(
    serve: Serve, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(failing=Counter(poll=1), ends=["failed"], errors=[{"message": "no such field"}])
    with pytest.raises(RequestRejectedError):
        list(texts(make(server.url, attempts=1), range(3)))
    assert list(texts(make(server.url), range(5, 8))) == echoes(range(5, 8))
    assert "no such field" in caplog.text


def test_a_cancelled_batch_is_not_submitted_again_by_the_same_run(
    serve: Serve, make: Make, response_cache: ResponseCache
) -> None:
    server = serve(ends=["cancelled"])
    with pytest.raises(RequestRejectedError, match="was cancelled"):
        list(texts(make(server.url), range(4)))
    assert len(server.batches) == 1 and _rows(response_cache, "responses") == 2
    assert list(texts(make(server.url), range(4))) == echoes(range(4))
    assert set(server.paid.values()) == {1}


def test_a_full_queue_is_waited_for(serve: Serve, make: Make) -> None:
    full = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
    server = serve(ends=["completed", "failed"], errors=[full])
    client = make(server.url, max_requests=3)
    client.max_pending = 6
    assert list(texts(client, range(6))) == echoes(range(6))
    assert len(server.batches) == 3 and set(server.paid.values()) == {1}
    alone = serve(ends=["failed"], errors=[full])
    with pytest.raises(RequestRejectedError, match="Lower max_requests"):
        list(texts(make(alone.url), range(6, 8)))


# Limits


def test_a_cap_of_calls_makes_exactly_as_many(
    serve: Serve, make: Make, response_cache: ResponseCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    opened = []
    open_batch = response_cache.open_batch
    monkeypatch.setattr(response_cache, "open_batch", lambda *how: opened.append(how) or open_batch(*how))
    with pytest.raises(CapReachedError, match=r"llm\.caps\.calls = 7"):
        list(texts(make(server.url, budget=Budget(Caps(calls=7), {}, PRICES)), range(10)))
    assert server.paid.total() == 7 == _rows(response_cache, "responses")
    assert len(opened) == 2  # requests without room are queued when the batch is collected
    assert _rows(response_cache, "batch_requests") == _rows(response_cache, "claims") == 0
    assert list(texts(make(server.url, budget=Budget(Caps(calls=3), {}, PRICES)), range(10))) == echoes(range(10))
    assert set(server.paid.values()) == {1}


def test_money_left_by_actual_costs_is_spent_within_the_cap(serve: Serve, make: Make) -> None:
    """The actual cost of a reply is below its reservation."""
    server = serve()
    budget = Budget(Caps(money=25 * HALF), {}, PRICES)
    client = make(server.url, budget=budget)
    with pytest.raises(CapReachedError, match="money"):
        list(texts(client, range(40)))
    assert len(server.batches) > 1 and len(server.submitted()[0]) > 1
    assert list(chain(*server.submitted())) == [f"item {item}" for item in range(server.paid.total())]
    assert budget.spent()["money"] == pytest.approx(server.paid.total() * HALF)
    bound = budget.cost(MODEL, request(client, 19).max_prompt_tokens, 50, batch=True)
    assert 25 * HALF - bound < budget.spent()["money"] <= 25 * HALF


def test_a_wrong_key_is_reported_without_the_key(
    serve: Serve, make: Make, response_cache: ResponseCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "sk-wrong-0123456789-wrong"
    server = serve()
    with pytest.raises(RequestRejectedError, match=r"401.*Check the key") as error:
        list(texts(make(server.url, api_key=key), range(3)))
    assert server.refused_keys == 1 and response_cache.batches() == []
    chain: BaseException | None = error.value
    while chain is not None:
        assert key not in str(chain)
        chain = chain.__cause__ or chain.__context__
    assert key not in caplog.text
    response_cache.close()
    assert not any(
        key.encode() in path.read_bytes()
        for path in response_cache.path.parent.glob("responses.sqlite*")
        if path.is_file()
    )


def test_a_server_without_batches_is_named(serve: Serve, make: Make) -> None:
    with pytest.raises(RequestRejectedError, match=r"no batch API.*mode: live"):
        list(texts(make(serve(no_batches=True).url), range(3)))


def test_a_server_that_is_not_there_is_named(make: Make, response_cache: ResponseCache) -> None:
    with pytest.raises(RequestRejectedError, match=r"127\.0\.0\.1:9/v1: the server could not be reached"):
        list(texts(make("http://127.0.0.1:9/v1"), range(3)))
    assert response_cache.batches() == []


def test_a_batch_client_takes_one_server(response_cache: ResponseCache) -> None:
    with pytest.raises(ValueError, match="base_urls has 2"):
        make_batch_client("http://a/v1", response_cache, base_urls=("http://a/v1", "http://b/v1"))


def _rows(response_cache: ResponseCache, table: str) -> int:
    with closing(sqlite3.connect(response_cache.path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


if __name__ == "__main__":
    url, path, items = sys.argv[1:]
    for text in texts(make_batch_client(url, ResponseCache(Path(path))), range(int(items))):
        print(text)
