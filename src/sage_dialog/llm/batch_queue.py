"""`BatchQueue`: the requests that wait for a batch, and the items of `map` that wait for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from sage_dialog.llm.client import Item, Result
from sage_dialog.llm.requests import (
    RETRYABLE,
    UNUSABLE_RESPONSES,
    FailureReason,
    LLMResponse,
    Request,
    RequestFailedError,
)

_RESUBMITTED = (
    *RETRYABLE,
    *UNUSABLE_RESPONSES,
    FailureReason.EXPIRED,
    FailureReason.UNSUPPORTED,
)  # failures after which a request is resubmitted

_item: ContextVar[object | None] = ContextVar("item", default=None)


@dataclass
class PendingRequest:
    """A request without a response yet, and the items that wait for it."""

    request: Request
    response: asyncio.Future[LLMResponse]
    items: list[object | None] = field(default_factory=list)
    rounds: int = 0
    invalid: int = 0


class BatchQueue:
    """Holds requests from their first item until their outcome: each is queued, or in one round of batches.

    Args:
        max_rounds: limit on the rounds that a request may be part of.
        max_invalid: limit on its responses of the wrong form.
        on_change: is called when items have begun to wait or have ended, so that a round may be due.
    """

    def __init__(self, max_rounds: int, max_invalid: int, on_change: Callable[[], None]) -> None:
        self._max_rounds = max_rounds
        self._max_invalid = max_invalid
        self._on_change = on_change
        self._maps: list[Counter[str]] = []  # items of each `map`: taken (in its thread) and ended (in the loop's)
        self._waiting: Counter[object] = Counter()  # items, each with the number of responses it waits for
        self._pending: dict[str, PendingRequest] = {}
        self._queued: dict[str, PendingRequest] = {}

    def __len__(self) -> int:
        """Return the number of requests that wait for a round."""
        return len(self._queued)

    def __contains__(self, key: object) -> bool:
        """Return whether items wait for the response to a request."""
        return key in self._pending

    @property
    def stalled(self) -> bool:
        """Whether no item can go on without a response."""
        active = sum(number["taken"] - number["ended"] for number in tuple(self._maps))
        return len(self._waiting) - (None in self._waiting) >= active  # None: requests outside of `map`

    @contextmanager
    def counted(
        self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]
    ) -> Iterator[tuple[Callable[[Item], Awaitable[Result]], Iterator[Item]]]:
        """Return the function and the items of a `map`, which count its active items as they are used."""
        number: Counter[str] = Counter()

        def count_taken() -> Iterator[Item]:
            for item in items:
                number["taken"] += 1
                yield item

        async def count_ended(item: Item) -> Result:
            _item.set(object())  # visible in all that is awaited from here
            try:
                return await function(item)
            finally:
                number["ended"] += 1
                self._on_change()

        self._maps.append(number)
        try:
            yield count_ended, count_taken()
        finally:
            self._maps.remove(number)

    async def response(self, request: Request) -> LLMResponse:
        """Queue a request unless it is pending, and wait for its response."""
        pending = self._pending.get(request.key)
        if pending is None:
            pending = PendingRequest(request, asyncio.get_running_loop().create_future())
            self._pending[request.key] = self._queued[request.key] = pending
        item = _item.get()
        pending.items.append(item)
        self._waiting[item] += 1
        self._on_change()
        try:
            return await asyncio.shield(pending.response)
        finally:
            if not pending.response.done():
                pending.items.remove(item)
                self._resume(item)
                if not pending.items:  # all of them were cancelled
                    self._discard(request.key)

    def take(self) -> dict[str, PendingRequest]:
        """Remove and return the queued requests by key, for a round."""
        taken, self._queued = self._queued, {}
        return taken

    def put_back(self, taken: Iterable[PendingRequest]) -> None:
        """Queue the requests of a round again that have no outcome and were not cancelled."""
        self._queued |= {one.request.key: one for one in taken if self._pending.get(one.request.key) is one}
        self._on_change()

    def invalid_responses(self, key: str) -> int:
        """Return how many responses of the wrong form a request has got."""
        pending = self._pending.get(key)
        return pending.invalid if pending else 0

    def resolve(self, key: str, outcome: LLMResponse | Exception) -> None:
        """Deliver an outcome to the items that wait for it, unless the request is to be resubmitted."""
        pending = self._pending.get(key)
        if pending is None:
            return
        if isinstance(outcome, RequestFailedError):
            pending.rounds += 1
            pending.invalid += outcome.reason in UNUSABLE_RESPONSES
            left = pending.rounds < self._max_rounds and pending.invalid < self._max_invalid
            if outcome.reason in _RESUBMITTED and left:
                return
        self._discard(key)
        if isinstance(outcome, LLMResponse):
            pending.response.set_result(outcome)
        else:
            pending.response.set_exception(outcome)
        for item in pending.items:
            self._resume(item)

    def fail_all(self, error: Exception) -> None:
        """Deliver an error to all items that wait for a response."""
        for key in list(self._pending):
            self.resolve(key, error)

    def _discard(self, key: str) -> None:
        del self._pending[key]
        self._queued.pop(key, None)

    def _resume(self, item: object | None) -> None:
        self._waiting[item] -= 1
        if not self._waiting[item]:
            del self._waiting[item]
