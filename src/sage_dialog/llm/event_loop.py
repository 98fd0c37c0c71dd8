"""The event loop of all calls of this process, in a thread of its own: nodes are plain functions that wait for it."""

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

_starting = threading.Lock()  # functools.cache may call its function twice


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _start_loop()


@cache
def _start_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="language models", daemon=True).start()
    return loop


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in the loop and return its result. Call it from outside of the loop."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # if this thread was interrupted
        raise


def map_ordered(
    function: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item],
    max_pending: int,
    drain: Callable[[], Coroutine[Any, Any, None]],
) -> Iterator[Result]:
    """Yield the function's result for each item, in order, with up to `max_pending` started and not yet yielded.

    The first error of any item, or the end of the iteration, cancels all others and awaits `drain`.
    """
    pending: deque[asyncio.Task[Result]] = deque()
    remaining = iter(items)
    failure: asyncio.Future[None] = _loop().create_future()
    try:
        while True:
            refill = len(pending) <= max_pending // 2 and not failure.done()
            if refill and (batch := list(islice(remaining, max_pending - len(pending)))):
                run(_start(function, batch, pending, failure))
            if not pending:
                return
            task = pending[0]
            result = task.result() if task.done() and not task.cancelled() else run(_outcome(task, failure))
            pending.popleft()
            yield result
    finally:
        if pending:
            run(_cancel(list(pending), failure, drain))


async def _start(
    function: Callable[[Item], Awaitable[Result]],
    items: Iterable[Item],
    pending: deque[asyncio.Task[Result]],
    failure: asyncio.Future[None],
) -> None:
    async def call(item: Item) -> Result:
        try:
            return await function(item)
        except Exception as error:
            if not failure.done():
                failure.set_exception(error)
                for task in list(pending):  # now, not when the waiting thread gets the error
                    if task is not asyncio.current_task():
                        task.cancel()
            raise

    for item in items:
        pending.append(asyncio.create_task(call(item)))
        await asyncio.sleep(0)  # lets the started tasks go on
        if failure.done():
            return


async def _outcome(task: asyncio.Task[Result], failure: asyncio.Future[None]) -> Result:
    """Return the task's result, or raise the first error of any task."""
    either: tuple[asyncio.Future[Any], ...] = (task, failure)
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not task.done() or task.cancelled():
        failure.result()
    return task.result()


async def _cancel(
    tasks: Iterable[asyncio.Task[Any]], failure: asyncio.Future[None], drain: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if failure.done():
        failure.exception()  # marks it as retrieved
    await drain()
