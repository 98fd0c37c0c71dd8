"""One event loop for all calls of this process, in a thread of its own; nodes are plain functions and wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


_starting = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _started_once()


@cache
def _started_once() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="language models", daemon=True).start()
    return loop


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine gives, from outside of the loop."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # where it was this thread that was interrupted
        raise


def map_ordered(
    function: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item],
    max_pending: int,
    drain: Callable[[], Coroutine[Any, Any, None]],
) -> Iterator[Result]:
    """The function's result for each item, in their order, with up to `max_pending` begun and not yet given out.

    As soon as one raises, whichever it is, or whoever takes the results stops, the others are cancelled, and `drain`
    is waited for.
    """
    begun: deque[asyncio.Task[Result]] = deque()
    waiting = iter(items)
    failure: asyncio.Future[None] = _loop().create_future()
    try:
        while True:
            few = len(begun) <= max_pending // 2 and not failure.done()
            if few and (batch := list(islice(waiting, max_pending - len(begun)))):
                run(_begin(function, batch, begun, failure))
            if not begun:
                return
            task = begun[0]
            result = task.result() if task.done() and not task.cancelled() else run(_outcome(task, failure))
            begun.popleft()
            yield result
    finally:
        if begun:
            run(_stop(list(begun), failure, drain))


async def _begin(
    function: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item],
    begun: deque[asyncio.Task[Result]],
    failure: asyncio.Future[None],
) -> None:
    async def begin(item: Item) -> Result:
        try:
            return await function(item)
        except Exception as error:
            if not failure.done():
                failure.set_exception(error)
                for task in list(begun):  # now, not when another thread hears of it
                    if task is not asyncio.current_task():
                        task.cancel()
            raise

    for item in items:
        begun.append(asyncio.create_task(begin(item)))
        await asyncio.sleep(0)  # what is on its way goes on in between
        if failure.done():
            return


async def _outcome(task: asyncio.Task[Result], failure: asyncio.Future[None]) -> Result:
    """The task's, or the error of another that came before."""
    either: tuple[asyncio.Future[Any], ...] = (task, failure)
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not task.done() or task.cancelled():
        failure.result()
    return task.result()


async def _stop(
    tasks: Iterable[asyncio.Task[Any]], failure: asyncio.Future[None], drain: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if failure.done():
        failure.exception()  # else asyncio complains that nobody looked at it
    await drain()
