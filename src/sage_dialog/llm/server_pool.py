"""Concurrency limits that adapt to each server, and the queue that spreads calls over all servers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

_BACK_OFF = 0.7


class AdaptiveLimit:
    """Limit on concurrent calls to one server: times 0.7 on overload, plus one for each round of successes.

    Overload lowers the limit once for all calls that were sent before.
    """

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._limit = float(max_calls)
        self._resumes_at = 0.0
        self._backed_off_at = 0
        self._started = 0
        self.in_flight = 0

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    @property
    def load(self) -> float:
        """Share of the limit in use."""
        return self.in_flight / self._limit

    @property
    def wait_s(self) -> float:
        """Seconds until the next call may be sent."""
        return max(0.0, self._resumes_at - time.monotonic())

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.limit and not self.wait_s

    def start_call(self) -> int:
        """Count a call and return its number, for `back_off`."""
        self.in_flight += 1
        self._started += 1
        return self._started

    def pause(self, seconds: float) -> float:
        """Send nothing for `seconds`; return by how many seconds this extends a pause that has begun."""
        now, begun = time.monotonic(), self._resumes_at
        self._resumes_at = max(begun, now + seconds)
        return self._resumes_at - max(begun, now)

    def back_off(self, call: int) -> bool:
        """Lower the limit after an overload; return False if an earlier one has already covered this call."""
        if call <= self._backed_off_at:
            return False
        self._limit = max(1.0, self._limit * _BACK_OFF)
        self._backed_off_at = self._started
        return True

    def recover(self) -> None:
        """Raise the limit after a success."""
        self._limit = min(float(self._max_calls), self._limit + 1 / self._limit)


class _Limited(Protocol):
    limit: AdaptiveLimit


ServerT = TypeVar("ServerT", bound=_Limited)


class ServerPool(Generic[ServerT]):
    """One queue for all servers: the first in the queue gets the first free slot of any server.

    A slow or dead server therefore delays only its own calls.
    """

    def __init__(self, servers: Sequence[ServerT]) -> None:
        self._servers = servers
        self._waiting: deque[asyncio.Future[tuple[ServerT, int]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def acquire(self, *, first: bool = False) -> tuple[ServerT, int]:
        """Wait for a slot; return its server and the number of the call there. Release each slot afterwards.

        Args:
            first: go to the head of the queue.
        """
        slot = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(slot)
        else:
            self._waiting.append(slot)
        self._assign()
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():  # assigned and cancelled at once
                self.release(slot.result()[0])
            raise

    def release(self, server: ServerT) -> None:
        server.limit.in_flight -= 1
        self._assign()

    def _assign(self) -> None:
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
            elif free := [server for server in self._servers if server.limit.has_room]:
                server = min(free, key=lambda server: server.limit.load)
                self._waiting.popleft().set_result((server, server.limit.start_call()))
            else:
                self._assign_after_pause()
                return

    def _assign_after_pause(self) -> None:
        """Schedule `_assign` for the end of the shortest pause; a server at its limit triggers it by `release`."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        # Not `if wait_s`: a pause that has ended since `has_room` was read would leave the queue asleep for ever.
        if paused := [server.limit for server in self._servers if server.limit.in_flight < server.limit.limit]:
            self._alarm = asyncio.get_running_loop().call_later(min(limit.wait_s for limit in paused), self._assign)
