"""The limits on concurrent calls hold under any order of events, with cancellations."""

import asyncio
import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_dialog.llm import server_pool
from sage_dialog.llm.server_pool import AdaptiveLimit, ServerPool


@dataclass
class Limited:
    limit: AdaptiveLimit


def test_one_overload_covers_all_calls_sent_before_it() -> None:
    limit = AdaptiveLimit(64)
    calls = [limit.start_call() for _ in range(64)]
    assert limit.back_off(calls[5])
    assert not any(limit.back_off(call) for call in calls)
    assert limit.limit == 44
    assert limit.back_off(limit.start_call())
    assert limit.limit == 31


def test_it_never_falls_below_one_and_recovers_to_the_maximum() -> None:
    limit = AdaptiveLimit(8)
    for _ in range(100):
        limit.back_off(limit.start_call())
    assert limit.limit == 1
    rounds = 0
    while limit.limit < 8:
        rounds += 1
        for _ in range(limit.limit):
            limit.recover()
    assert rounds <= 9  # one more for each round, as much as rounding allows
    for _ in range(100):
        limit.recover()
    assert limit.limit == 8


def test_a_pause_starts_no_call_and_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        now = [0.0]
        monkeypatch.setattr(server_pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
        server = Limited(AdaptiveLimit(2))
        pool = ServerPool([server])
        server.limit.pause(0.02)
        turn = asyncio.create_task(pool.acquire())
        await asyncio.sleep(0.05)
        assert not turn.done()  # its clock has not advanced
        now[0] = 1.0
        await asyncio.wait_for(turn, 60)

    asyncio.run(run())


def test_a_pause_that_ends_between_two_looks_at_the_clock_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        readings = iter([0.0, 0.0099999])  # when the pause begins, and just before its end; then it is over
        monkeypatch.setattr(server_pool, "time", SimpleNamespace(monotonic=lambda: next(readings, 0.0100001)))
        limit = AdaptiveLimit(2)
        limit.pause(0.01)
        await asyncio.wait_for(ServerPool([Limited(limit)]).acquire(), 60)

    asyncio.run(run())


def test_retries_go_first() -> None:
    async def run() -> list[str]:
        server = Limited(AdaptiveLimit(1))
        pool = ServerPool([server])
        order: list[str] = []

        async def call(name: str, first: bool) -> None:
            await pool.acquire(first=first)
            order.append(name)
            await asyncio.sleep(0)
            pool.release(server)

        await pool.acquire()
        tasks = [
            asyncio.create_task(call(name, first)) for name, first in [("a", False), ("b", False), ("retry", True)]
        ]
        await asyncio.sleep(0)
        pool.release(server)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == ["retry", "a", "b"]


def test_calls_go_to_the_least_loaded_server() -> None:
    async def run() -> list[int]:
        servers = [Limited(AdaptiveLimit(4)), Limited(AdaptiveLimit(2))]
        pool = ServerPool(servers)
        return [servers.index((await pool.acquire())[0]) for _ in range(6)]

    taken = asyncio.run(run())
    assert sorted(taken) == [0, 0, 0, 0, 1, 1]
    assert set(taken[:2]) == {0, 1}


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_calls=st.integers(1, 6),
    servers=st.integers(1, 3),
    calls=st.integers(1, 60),
)
def test_under_any_order_of_events(seed: int, max_calls: int, servers: int, calls: int) -> None:
    """Calls start within the limit, and every call that is not cancelled gets a slot."""
    draw = random.Random(seed)

    async def run() -> None:
        limited = [Limited(AdaptiveLimit(max_calls)) for _ in range(servers)]
        pool = ServerPool(limited)
        done = 0

        async def call() -> None:
            nonlocal done
            server, number = await pool.acquire(first=draw.random() < 0.2)
            try:
                assert server.limit.in_flight <= max_calls
                for _ in range(draw.randrange(4)):
                    await asyncio.sleep(0)
                if draw.random() < 0.3:
                    server.limit.back_off(number)
                else:
                    server.limit.recover()
            finally:
                pool.release(server)
            done += 1

        entered = AdaptiveLimit.start_call

        def enter(limit: AdaptiveLimit) -> int:
            assert limit.in_flight < limit.limit
            return entered(limit)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AdaptiveLimit, "start_call", enter)
            tasks = [asyncio.create_task(call()) for _ in range(calls)]
            cancelled = 0
            while pending := [task for task in tasks if not task.done()]:
                await asyncio.sleep(0)
                if draw.random() < 0.1 and cancelled < calls // 2:
                    draw.choice(pending).cancel()
                    cancelled += 1
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [o for o in outcomes if o is not None and not isinstance(o, asyncio.CancelledError)]
        assert done >= calls - cancelled
        assert [server.limit.in_flight for server in limited] == [0] * servers

    asyncio.run(asyncio.wait_for(run(), 10))
