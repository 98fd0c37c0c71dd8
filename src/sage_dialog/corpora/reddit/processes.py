"""Tasks in this process or in a pool of them, with progress that all of them tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pyarrow as pa
from tqdm import tqdm


def carried_out(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int, tell: Callable[[int, int], None]
) -> Iterator[Any]:
    """The results of a function on each task, as they come; the function's last argument tells progress."""
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from (function(*task, tell) for task in tasks)
        return
    context = get_context("forkserver")
    told = context.Array("q", [0, 0])
    with ProcessPoolExecutor(workers, context, initializer=_share, initargs=(told,)) as pool:
        pending = {pool.submit(_in_worker, function, task) for task in tasks}
        seen = [0, 0]
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                now = told[:]
                tell(now[0] - seen[0], now[1] - seen[1])
                seen = now
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A worker process was killed, perhaps for want of memory. What was finished is kept: run the same "
                "again, with fewer workers (--params data_processing.workers=1)."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_told: Any = None


def _share(told: Any) -> None:
    global _told
    _told = told


def _in_worker(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    def tell(read: int, lines: int) -> None:
        with _told.get_lock():
            _told[0] += read
            _told[1] += lines

    return function(*task, tell)


@contextmanager
def system_memory() -> Iterator[None]:
    """Has Arrow take its memory from the system's allocator, which keeps what is freed for the next block.

    Arrow's own hands it back at once, to be asked for, and cleared by the kernel, again: a tenth of all the work.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


class DumpsBar:
    """Months done, comments a second, and the time left by the bytes still to be read."""

    def __init__(self, dumps: int, done: int, total: int) -> None:
        self._dumps, self._done, self._lines = dumps, done, 0
        self._since = time.monotonic()
        self._bar = tqdm(total=total, unit="B", unit_scale=True, desc=self._desc())

    def _desc(self) -> str:
        return f"Reddit dumps {self._done}/{self._dumps}"

    def __enter__(self) -> DumpsBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def tell(self, read: int, lines: int) -> None:
        self._lines += lines
        speed = self._lines / max(time.monotonic() - self._since, 1e-9)
        self._bar.set_postfix_str(f"{speed:,.0f} lines/s", refresh=False)
        self._bar.update(read)

    def finished(self) -> None:
        self._done += 1
        self._bar.set_description(self._desc())
