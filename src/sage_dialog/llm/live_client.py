"""`LiveClient`: one call for each request, spread over servers, within rate limits, with retries."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from aiolimiter import AsyncLimiter

from sage_dialog.llm.budget import Budget, Reservation
from sage_dialog.llm.client import LLMClient
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import (
    RETRYABLE,
    UNUSABLE_RESPONSES,
    FailureReason,
    LLMResponse,
    Request,
    RequestFailedError,
)
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.llm.server import Server, retrying, token_usage
from sage_dialog.llm.server_pool import ServerPool

logger = logging.getLogger(__name__)

_POLL_S = 0.5  # interval of checks for the response to a request that another process has claimed


class LiveClient(LLMClient):
    """Sends one call for each request that is not cached, and returns a response once it is in the cache."""

    def __init__(
        self, endpoint: Endpoint, response_cache: ResponseCache, budget: Budget, max_failed_share: float = 1.0
    ) -> None:
        super().__init__(endpoint, response_cache, budget, max_failed_share)
        self.servers = tuple(Server(endpoint, url) for url in endpoint.base_urls)
        slots = endpoint.concurrency * len(self.servers)
        self.max_pending = max(1024, 4 * slots)  # keeps the servers busy while one call is retried for minutes
        self._pool = ServerPool(self.servers)
        # Claims precede free slots, so that no slot waits for the disk; few, because other processes also claim.
        self._claims_ahead = asyncio.Semaphore(slots)
        self._rate_limits = RateLimit(endpoint.requests_per_minute), RateLimit(endpoint.tokens_per_minute)
        self._fetches: dict[str, asyncio.Task[LLMResponse]] = {}
        self._waiting: Counter[str] = Counter()
        self._claimed: set[str] = set()
        self._logged: set[FailureReason] = set()

    async def request(self, request: Request) -> LLMResponse:
        key = request.key
        while (fetch := self._fetches.get(key)) and fetch.cancelling():
            await asyncio.wait([fetch])  # it was cancelled, but its call may be in flight
        if response := self.response_cache.get(request):
            return response
        if fetch is None:  # equal concurrent requests share one call
            fetch = self._fetches[key] = asyncio.create_task(self._fetch(request))
            fetch.add_done_callback(lambda _: self._fetches.pop(key))
        self._waiting[key] += 1
        try:
            return await asyncio.shield(fetch)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
                fetch.cancel()  # unless it is done

    async def drain(self) -> None:
        if cancelled := [fetch for fetch in self._fetches.values() if fetch.cancelling()]:
            if in_flight := sum(server.limit.in_flight for server in self.servers):
                logger.info("waiting for up to %d calls in flight; their responses are saved", in_flight)
            await asyncio.wait(cancelled)

    async def close(self) -> None:
        for server in self.servers:
            await server.close()

    async def _fetch(self, request: Request) -> LLMResponse:
        while True:
            try:
                response = await self._retry(request)
            except BaseException:
                if request.key in self._claimed:
                    self.response_cache.release(request)
                raise
            finally:
                self._claimed.discard(request.key)
            if response := response or self.response_cache.get(request):
                return response
            await self.check_orphaned_batches([request])
            await asyncio.sleep(_POLL_S)

    async def _retry(self, request: Request) -> LLMResponse | None:
        """Return the response; None if another process sends the request, or its response is saved already."""
        invalid = 0

        def retryable(failure: RequestFailedError) -> bool:
            nonlocal invalid
            invalid += failure.reason in UNUSABLE_RESPONSES
            return failure.reason in RETRYABLE or (
                failure.reason in UNUSABLE_RESPONSES and invalid < self.endpoint.max_invalid_responses
            )

        return await retrying(self.endpoint.attempts, retryable)(self._call, request)

    async def _call(self, request: Request) -> LLMResponse | None:
        if request.key in self._claimed:  # a retry
            server, number = await self._pool.acquire(first=True)
        else:
            async with self._claims_ahead:
                self._claimed.add(request.key)
                if not await self.response_cache.claim(request):
                    return None
                server, number = await self._pool.acquire()
        try:
            for rate_limit, amount in zip(self._rate_limits, (1, _expected_tokens(request)), strict=True):
                await rate_limit.acquire(amount)
            while wait_s := server.limit.wait_s:
                await asyncio.sleep(wait_s)
            reservation = await self.budget.reserve(request)
        except BaseException:
            self._pool.release(server)
            raise
        # The call is billed from here on: a cancellation stops those who wait for it, not the call.
        call = asyncio.create_task(self._send(server, number, request, reservation))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            call.exception()  # marks it as retrieved; it is in the response cache
            raise

    async def _send(self, server: Server, number: int, request: Request, reservation: Reservation) -> LLMResponse:
        prompt_tokens = completion_tokens = 0
        cost = None
        try:
            try:
                answer = await server.send(request)
                self.budget.record_model(request.role, answer)
                prompt_tokens, completion_tokens = token_usage(answer, request)
                cost = self.budget.cost(request.model, prompt_tokens, completion_tokens)
                server.on_success()
                response = request.parse(answer, prompt_tokens, completion_tokens)
            finally:
                await self.budget.settle(reservation, prompt_tokens + completion_tokens, cost)
            await self.response_cache.save(request, response, cost)
        except RequestFailedError as failure:
            server.on_failure(number, failure)
            level = logging.DEBUG if failure.reason in self._logged else logging.WARNING
            self._logged.add(failure.reason)
            logger.log(level, "%s: %s (logged once; the response cache counts them)", server.address, failure)
            await self.response_cache.save_failure(request, failure, prompt_tokens, completion_tokens, cost)
            raise
        finally:
            # After the response is saved: a killed process loses no more calls than may be in flight at a time.
            self._pool.release(server)
        return response


class RateLimit:
    """A limit per minute, enforced evenly: bursts of a tenth of a minute's amount, first come, first served."""

    def __init__(self, per_minute: float | None) -> None:
        burst = max(1.0, (per_minute or 0.0) / 10)
        self._limiter = AsyncLimiter(burst, 60 * burst / per_minute) if per_minute else None
        self._turn = asyncio.Lock()

    async def acquire(self, amount: float) -> None:
        """Wait until `amount` is within the limit; it may exceed a burst."""
        if self._limiter is None:
            return
        async with self._turn:
            while amount > 0:
                part = min(amount, self._limiter.max_rate)
                await self._limiter.acquire(part)
                amount -= part


def _expected_tokens(request: Request) -> float:
    """Return an estimate for rate limits: four bytes a prompt token, and half of the limit on the response."""
    return request.max_prompt_tokens / 4 + (request.max_completion_tokens or 0) / 2
