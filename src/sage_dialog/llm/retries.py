"""Repeated attempts at a call, with random exponential backoff."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sage_dialog.llm.requests import UNUSABLE_RESPONSES, RequestFailedError

_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 60.0

Result = TypeVar("Result")


def longest_wait_s(waits: int) -> float:
    """Return the longest next wait after so many waits: each is twice the one before, up to a limit."""
    return min(_MAX_WAIT_S, _FIRST_WAIT_S * 2 ** min(waits, 10))


async def retry(
    call: Callable[[], Awaitable[Result]], attempts: int, retryable: Callable[[RequestFailedError], bool]
) -> Result:
    """Return the result of the first attempt at a call that does not fail, or raise the last failure.

    Random exponential backoff, but none after an unusable response. By hand: tenacity takes a twentieth of the CPU time
    of a call, and as many lines.
    """
    attempt = 1
    while True:
        try:
            return await call()
        except RequestFailedError as failure:
            if not retryable(failure) or attempt >= attempts:
                raise
            unusable = failure.reason in UNUSABLE_RESPONSES
        await asyncio.sleep(0 if unusable else random.uniform(0, longest_wait_s(attempt - 1)))
        attempt += 1
