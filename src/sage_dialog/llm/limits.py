"""How many calls are on their way to one server: fewer when it pushes back, more again when it does not."""

from __future__ import annotations

import asyncio
from collections import deque

_BACK_OFF = 0.7


class AdaptiveLimit:
    """A semaphore whose size follows the server: times 0.7 when it pushes back, one more for each round without.

    Calls that were sent before the last push-back are answered for by it; theirs change nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._backed_off_at = 0
        self._started = 0
        self.in_flight = 0

    @property
    def limit(self) -> int:
        return max(1, int(self._limit))

    @property
    def load(self) -> float:
        """Calls on their way and waiting, by the size of the limit."""
        return (self.in_flight + len(self._waiting)) / self._limit

    async def enter(self) -> int:
        """Waits for a place; gives the number of the call, for `pushed_back`. Every place is to be left again."""
        if self.in_flight >= self.limit or self._waiting:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # let in and cancelled at once
                    self.leave()
                raise
        else:
            self.in_flight += 1
        self._started += 1
        return self._started

    def leave(self) -> None:
        self.in_flight -= 1
        self._let_in()

    def pushed_back(self, call: int) -> None:
        """The server said that it is too much."""
        if call > self._backed_off_at:
            self._limit = max(1.0, self._limit * _BACK_OFF)
            self._backed_off_at = self._started

    def went_well(self) -> None:
        """The server answered."""
        self._limit = min(float(self._most), self._limit + 1 / self._limit)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
