"""Results in order, immediate errors, and no task left."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_dialog.llm import event_loop as loop


class Drain:
    """Counts how often it was awaited."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


@settings(max_examples=30, deadline=None)
@given(delays=st.lists(st.integers(0, 5), max_size=40), max_pending=st.integers(1, 10))
def test_results_come_in_the_order_of_the_items(delays: list[int], max_pending: int) -> None:
    running, most_running = 0, 0

    async def echo(item: tuple[int, int]) -> int:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        for _ in range(item[1]):
            await asyncio.sleep(0)
        running -= 1
        return item[0]

    assert list(loop.map_ordered(echo, enumerate(delays), max_pending, Drain())) == list(range(len(delays)))
    assert most_running <= max_pending


def test_items_are_read_as_they_are_needed() -> None:
    read = []

    def items() -> Iterator[int]:
        for item in range(1000):
            read.append(item)
            yield item

    async def echo(item: int) -> int:
        return item

    results = loop.map_ordered(echo, items(), 10, Drain())
    assert next(results) == 0
    assert len(read) <= 10
    assert list(results) == list(range(1, 1000))


def test_an_error_cancels_all_started_items() -> None:
    begun, cancelled, drain = [], [], Drain()

    async def fail(item: int) -> int:
        begun.append(item)
        try:
            await asyncio.sleep(0 if item == 7 else 3600)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 7"):  # although earlier items are not done
        list(loop.map_ordered(fail, range(1000), 20, drain))
    assert begun == list(range(len(begun))) and 8 <= len(begun) <= 20
    assert sorted(cancelled) == [item for item in begun if item != 7]
    assert drain.times == 1


def test_finished_results_come_before_the_error() -> None:
    async def fail(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = loop.map_ordered(fail, range(10), 10, Drain())
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_an_error_of_the_item_iterator_is_raised() -> None:
    drain = Drain()

    def items() -> Iterator[int]:
        yield 0
        raise OSError("the table is gone")

    async def wait(item: int) -> int:
        await asyncio.sleep(3600)
        return item

    with pytest.raises(OSError, match="the table is gone"):
        list(loop.map_ordered(wait, items(), 10, drain))


def test_closing_the_iterator_cancels_the_rest() -> None:
    cancelled, drain = threading.Event(), Drain()

    async def wait(item: int) -> int:
        try:
            await asyncio.sleep(3600 if item else 0)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return item

    results = loop.map_ordered(wait, range(5), 5, drain)
    assert next(results) == 0
    results.close()
    assert cancelled.is_set()
    assert drain.times == 1
