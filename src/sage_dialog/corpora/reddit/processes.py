"""Tasks in this process or in a pool of processes, with one progress bar for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from sage_dialog.core.processes import end_with_parent

Progress = Callable[[int, int], None]
"""Called with the compressed bytes and the lines read since the last call."""

_counters: Any = None  # of a worker: bytes and lines read, shared with the parent process


def run_tasks(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int, progress: Progress
) -> Iterator[Any]:
    """Yield the results of `function(*task, progress)` as they complete."""
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from (function(*task, progress) for task in tasks)
        return
    context = get_context("forkserver")
    counters = context.Array("q", [0, 0])
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(counters,)) as pool:
        pending = {pool.submit(_run_in_worker, function, task) for task in tasks}
        reported = [0, 0]
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                now = counters[:]
                progress(now[0] - reported[0], now[1] - reported[1])
                reported = now
                for future in finished:
                    yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A worker process was killed, perhaps for lack of memory. Finished parts are kept: run the same "
                "command again, with fewer workers (--params data_processing.workers=1)."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(counters: Any) -> None:
    global _counters
    _counters = counters
    end_with_parent()


def _run_in_worker(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    def progress(read: int, lines: int) -> None:
        with _counters.get_lock():
            _counters[0] += read
            _counters[1] += lines

    return function(*task, progress)


@contextmanager
def system_memory() -> Iterator[None]:
    """Let Arrow allocate from the system's allocator, which reuses freed blocks; the kernel gets them at the end.

    Arrow's own allocator returns each at once, and the kernel clears them again: a tenth of the run time.
    """
    before, of_system = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(of_system)
    try:
        yield
    finally:
        pa.set_memory_pool(before)
        of_system.release_unused()


class DumpsBar(tqdm):
    """A progress bar of months done, lines per second, and the time left by the bytes to be read."""

    def __init__(self, dumps: int, done: int, total: int) -> None:
        self._dumps, self._done, self._lines = dumps, done, 0
        super().__init__(total=total, unit="B", unit_scale=True, desc=f"Reddit dumps {done}/{dumps}")

    def report(self, read: int, lines: int) -> None:
        self._lines += lines
        self.set_postfix_str(f"{self._lines / max(self.format_dict['elapsed'], 1e-9):,.0f} lines/s", refresh=False)
        self.update(read)

    def finish_dump(self) -> None:
        self._done += 1
        self.set_description(f"Reddit dumps {self._done}/{self._dumps}")
