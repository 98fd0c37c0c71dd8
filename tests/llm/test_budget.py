"""Caps hold under concurrency and are used up; the error states how to continue."""

import asyncio
from collections.abc import Callable

import pytest
from faulty_server import FaultyServer
from live_program import MODEL, request, texts

from sage_dialog.config import Caps, Price
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget, CapReachedError
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache

Serve = Callable[..., FaultyServer]
MakeClient = Callable[..., LiveClient]

PRICES = {MODEL: Price(prompt=1.0, completion=10.0)}


def budget(role_caps: dict[str, Caps] | None = None, **caps: float) -> Budget:
    return Budget(Caps.model_validate(caps), role_caps or {}, PRICES)


@pytest.mark.parametrize("cap", [0, 1, 37])
def test_a_cap_of_n_calls_makes_exactly_n_calls(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, cap: int
) -> None:
    server = serve(latency_s=0.002)
    with pytest.raises(CapReachedError, match=rf"llm\.caps\.calls = {cap} is reached.*The same command goes on"):
        list(texts(client := make_client(server.url, budget=budget(calls=cap), concurrency=16), range(200)))
    assert len(server.calls) == cap
    assert client.servers[0].limit.in_flight == 0
    assert len(list(response_cache.entries())) == cap  # responses in flight are saved


def test_failed_calls_count(serve: Serve, make_client: MakeClient, response_cache: ResponseCache) -> None:
    server = serve(share=0.3)
    with pytest.raises(CapReachedError):
        list(texts(make_client(server.url, budget=budget(calls=50), attempts=30), range(200)))
    assert len(server.calls) == 50
    assert len(list(response_cache.entries())) == len(server.paid) < 50


def test_the_next_run_requests_only_what_is_missing(serve: Serve, make_client: MakeClient) -> None:
    server = serve()
    with pytest.raises(CapReachedError):
        list(texts(make_client(server.url, budget=budget(calls=60)), range(100)))
    second_run = make_client(server.url, budget=budget(calls=60))
    assert list(texts(second_run, range(100))) == [f"echo item {item}" for item in range(100)]
    assert len(server.calls) == 100 and set(server.paid.values()) == {1}
    assert second_run.budget.spent()["calls"] == 40


def money(call_tokens: tuple[int, int]) -> float:
    return (call_tokens[0] * 1.0 + call_tokens[1] * 10.0) / 1e6


@pytest.mark.parametrize("kind", ["tokens", "money"])
def test_caps_on_tokens_and_money_hold_and_are_used(serve: Serve, make_client: MakeClient, kind: str) -> None:
    server = serve(latency_s=0.002)
    one = request(make_client(server.url), 100)
    bounds = (one.max_prompt_tokens, 50)  # upper bounds of one call
    cap, bound = (2000, sum(bounds)) if kind == "tokens" else (0.01, money(bounds))
    limited = budget(**{kind: cap})
    with pytest.raises(CapReachedError, match=rf"llm\.caps\.{kind} = .* is reached"):
        list(texts(make_client(server.url, budget=limited, concurrency=16), range(100, 999)))
    answered = [server._completion(call, "")["usage"] for call in server.calls]
    spent = [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in answered]
    total = sum(map(sum, spent)) if kind == "tokens" else sum(map(money, spent))
    assert cap - bound < total <= cap
    assert limited.spent()[kind] == pytest.approx(total)


def test_a_call_waits_until_the_calls_in_flight_are_settled(serve: Serve, make_client: MakeClient) -> None:
    server = serve()
    server.hold()
    one = request(make_client(server.url), 1)
    limited = budget(tokens=one.max_prompt_tokens + 50 + 10)  # two concurrent calls could exceed it
    client = make_client(server.url, budget=limited)

    async def both() -> list[str]:
        tasks = [asyncio.create_task(client.request(request(client, item))) for item in (1, 2)]
        while not server.in_flight:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert server.in_flight == len(server.calls) == 1
        server.release()
        return [reply.text for reply in await asyncio.gather(*tasks)]

    assert loop.run(both()) == ["echo item 1", "echo item 2"]
    assert server.most_in_flight == 1


def test_a_role_has_its_own_cap(serve: Serve, make_client: MakeClient) -> None:
    server = serve()
    shared = budget({"selector": Caps(calls=5)}, calls=20)
    client = make_client(server.url, budget=shared)
    with pytest.raises(
        CapReachedError, match=r"llm\.role_caps\.selector\.calls = 5 is reached: the selector has spent 5"
    ):
        list(texts(client, range(100), role="selector"))
    assert len(server.calls) == 5
    with pytest.raises(CapReachedError, match=r"llm\.caps\.calls = 20 is reached"):
        list(texts(client, range(1000, 1100), role="judge"))
    assert len(server.calls) == 20
    assert (shared.spent("selector")["calls"], shared.spent("judge")["calls"]) == (5, 15)


def test_two_clients_share_the_budget_of_a_run(serve: Serve, make_client: MakeClient) -> None:
    servers, shared = [serve(latency_s=0.002), serve(latency_s=0.002)], budget(calls=31)
    clients = [make_client(server.url, budget=shared, model=f"model-{i}") for i, server in enumerate(servers)]

    async def send(item: int) -> str:
        client = clients[item % 2]
        return (await client.request(request(client, item))).text

    with pytest.raises(CapReachedError):
        list(clients[0].map(send, range(100)))
    loop.run(clients[1].drain())
    assert sum(len(server.calls) for server in servers) == 31


def test_a_call_that_is_cancelled_while_it_waits_takes_nothing(make_client: MakeClient) -> None:
    limited = budget(tokens=130)  # one upper bound and the actual tokens of two calls
    one = request(make_client("http://127.0.0.1:9/v1"), 1)

    async def run() -> None:
        first = await limited.reserve(one)
        waiting = [asyncio.create_task(limited.reserve(one)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        assert limited.spent()["calls"] == 1
        limited.settle(first, 10, None)
        second = await waiting[1]
        limited.settle(second, 10, None)
        await waiting[2]
        assert limited.spent() == {"calls": 3, "tokens": 20, "money": 0}

    loop.run(run())


def test_caps_that_cannot_be_enforced_are_refused_before_the_first_call(make_client: MakeClient) -> None:
    unknown = make_client("http://127.0.0.1:9/v1", model="unpriced", budget=budget(money=1))
    with pytest.raises(ValueError, match=r"llm\.caps\.money caps the cost of unpriced, but llm\.prices has no price"):
        unknown.log_estimate([request(unknown, 1)])
    endless = make_client("http://127.0.0.1:9/v1", sampling={}, budget=budget({"judge": Caps(tokens=9)}))
    with pytest.raises(ValueError, match=r"llm\.role_caps\.judge caps tokens .* sets no max_tokens"):
        endless.log_estimate([request(endless, 1)])
