"""How many calls are on their way to each server: fewer when it pushes back, more again when it does not."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

_BACK_OFF = 0.7


class AdaptiveLimit:
    """Follows one server: times 0.7 when it pushes back, one more for each round without.

    Calls that were sent before the last push-back are answered for by it; theirs change nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._resumes_at = 0.0
        self._backed_off_at = 0
        self._started = 0
        self.in_flight = 0

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    @property
    def load(self) -> float:
        """Calls on their way, by the size of the limit."""
        return self.in_flight / self._limit

    @property
    def wait_s(self) -> float:
        """Seconds for which nothing is to be sent."""
        return max(0.0, self._resumes_at - time.monotonic())

    @property
    def has_room(self) -> bool:
        return self.in_flight < self.limit and not self.wait_s

    def enter(self) -> int:
        """One more call is on its way; gives its number, for `pushed_back`."""
        self.in_flight += 1
        self._started += 1
        return self._started

    def pause(self, seconds: float) -> None:
        """Nothing is sent for as long."""
        self._resumes_at = max(self._resumes_at, time.monotonic() + seconds)

    def pushed_back(self, call: int) -> bool:
        """The server said that it is too much; whether that was news."""
        if call <= self._backed_off_at:
            return False
        self._limit = max(1.0, self._limit * _BACK_OFF)
        self._backed_off_at = self._started
        return True

    def went_well(self) -> None:
        """The server answered."""
        self._limit = min(float(self._most), self._limit + 1 / self._limit)


class Limited(Protocol):
    limit: AdaptiveLimit


Server = TypeVar("Server", bound=Limited)


class Places(Generic[Server]):
    """One queue for all servers: who waits longest gets the first place that is free anywhere.

    So a server that is slow, or dead, holds up no calls but those that it has.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._waiting: deque[asyncio.Future[tuple[Server, int]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    async def take(self, *, first: bool = False) -> tuple[Server, int]:
        """Waits for a place; gives the server and the number of the call there. Every place is to be left again.

        Args:
            first: go before all who wait.
        """
        turn = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        self._fill()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # got its place and was cancelled at once
                self.leave(turn.result()[0])
            raise

    def leave(self, server: Server) -> None:
        server.limit.in_flight -= 1
        self._fill()

    def _fill(self) -> None:
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
            elif free := [server for server in self._servers if server.limit.has_room]:
                server = min(free, key=lambda server: server.limit.load)
                self._waiting.popleft().set_result((server, server.limit.enter()))
            else:
                self._fill_later()
                return

    def _fill_later(self) -> None:
        """When the first pause is over; otherwise a call that ends makes room."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if pauses := [wait_s for server in self._servers if (wait_s := server.limit.wait_s)]:
            self._alarm = asyncio.get_running_loop().call_later(min(pauses), self._fill)
