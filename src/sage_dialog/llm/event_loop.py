"""The event loop of all calls of this process, in a thread of its own: nodes are plain functions that wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import uvloop

Item = TypeVar("Item")
Result = TypeVar("Result")

_starting = threading.Lock()  # functools.cache may call its function twice


def _loop() -> asyncio.AbstractEventLoop:
    with _starting:
        return _start_loop()


@cache
def _start_loop() -> asyncio.AbstractEventLoop:
    loop = uvloop.new_event_loop()
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


def run_streaming(function: Callable[..., Coroutine[Any, Any, Result]], on_text: Callable[[str], None]) -> Result:
    """Run a function in the loop that has an argument `on_text`, whose pieces `on_text` gets in this thread."""

    async def start() -> tuple[asyncio.Task[Result], asyncio.Queue[str | None]]:
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        task = asyncio.create_task(function(on_text=pieces.put_nowait))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        return task, pieces

    async def cancel(task: asyncio.Task[Result]) -> None:
        task.cancel()
        await asyncio.wait([task])

    task, pieces = run(start())
    try:
        while (piece := run(pieces.get())) is not None:
            on_text(piece)
        return run(asyncio.wait_for(task, None))
    except BaseException:
        run(cancel(task))
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

    async def start(batch: list[Item]) -> None:
        for item in batch:
            pending.append(asyncio.create_task(call(item)))
            await asyncio.sleep(0)  # lets the started tasks go on
            if failure.done():
                return

    async def first_result() -> Result:
        """Return the result of the first task, or raise the first error of any."""
        await asyncio.wait((pending[0], failure), return_when=asyncio.FIRST_COMPLETED)
        if not pending[0].done() or pending[0].cancelled():
            failure.result()
        return pending[0].result()

    async def cancel() -> None:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if failure.done():
            failure.exception()  # marks it as retrieved
        await drain()

    try:
        while True:
            refill = len(pending) <= max_pending // 2 and not failure.done()
            if refill and (batch := list(islice(remaining, max_pending - len(pending)))):
                run(start(batch))
            if not pending:
                return
            done = pending[0].done() and not pending[0].cancelled()
            result = pending[0].result() if done else run(first_result())
            pending.popleft()
            yield result
    finally:
        if pending:
            run(cancel())
