"""The thread in which engines are opened and sample, one job after the other."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

MAX_WAITING = 32
"""Jobs that wait for the thread."""

Result = TypeVar("Result")


class BusyError(RuntimeError):
    """Too many jobs wait for the thread."""


@dataclass(eq=False)
class Job:
    """Work in the thread, and where its events go.

    Attributes:
        listener: called in the loop with each event.
        cancelled: set when nobody waits for the result any more.
    """

    loop: asyncio.AbstractEventLoop
    listener: Callable[[Any], None]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def put(self, event: object) -> None:
        """Pass an event from the thread to the listener."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self.loop.call_soon_threadsafe(self.listener, event)


class EngineThread:
    """Runs jobs one at a time. Torch's number of threads belongs to a thread, so that engines are opened here, too."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "engine")
        self._jobs: set[Job] = set()

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return the result of a function in the thread; waits for it."""
        return self._executor.submit(function, *arguments).result()

    def prepare(self, function: Callable[[], object]) -> None:
        """Call a function in the thread without waiting for it. An error is not reported: the first job meets it."""
        self._executor.submit(function)

    def start(self, work: Callable[[Job], None], listener: Callable[[Any], None]) -> Job:
        """Start a job from the event loop. `work` puts its events, errors included, and raises none.

        Raises:
            BusyError: if too many wait.
        """
        if len(self._jobs) >= MAX_WAITING:
            raise BusyError(f"{MAX_WAITING} requests are waiting; try again later.")
        job = Job(asyncio.get_running_loop(), listener)
        self._jobs.add(job)
        self._executor.submit(self._run, job, work)
        return job

    def stop(self) -> None:
        """Cancel all jobs."""
        for job in list(self._jobs):
            job.cancelled.set()

    def close(self) -> None:
        """Cancel all jobs, and wait for the thread."""
        self.stop()
        self._executor.shutdown()

    def _run(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            work(job)
        finally:
            self._jobs.discard(job)
