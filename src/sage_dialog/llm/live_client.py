"""Live calls to OpenAI-compatible servers: shared among servers, paced, tried again where that can help."""

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
from sage_dialog.llm.server import Server, attempts, usage_of
from sage_dialog.llm.server_pool import Places

logger = logging.getLogger(__name__)

_POLL_S = 0.5  # how often a reply is looked for that another process asks for


class LiveClient(LLMClient):
    """Asks by one call for each request.

    A reply that the response cache has is never asked for; one that comes is in the response cache before it is given out.
    """

    def __init__(
        self, endpoint: Endpoint, response_cache: ResponseCache, budget: Budget, max_failed_share: float = 1.0
    ) -> None:
        super().__init__(endpoint, response_cache, budget, max_failed_share)
        self.servers = tuple(Server(endpoint, url) for url in endpoint.base_urls)
        # Enough to go on with while one call is tried again for minutes.
        self.max_pending = max(1024, 4 * endpoint.concurrency * len(self.servers))
        self._places = Places(self.servers)
        # Claims run ahead of the calls, so that no place waits for the disk; not far, for other processes ask too.
        self._next = asyncio.Semaphore(endpoint.concurrency * len(self.servers))
        self._pace = _Pace(endpoint.requests_per_minute), _Pace(endpoint.tokens_per_minute)
        self._fetches: dict[str, asyncio.Task[LLMResponse]] = {}
        self._waiting: Counter[str] = Counter()
        self._claimed: set[str] = set()
        self._warned: set[FailureReason] = set()

    async def request(self, request: Request) -> LLMResponse:
        key = request.key
        while (fetch := self._fetches.get(key)) and fetch.cancelling():
            await asyncio.wait([fetch])  # nobody waited for it any more, but it may be on its way
        if reply := self.response_cache.get(request):
            self.response_cache.count_hit(request)
            return reply
        if fetch is None:  # the same request twice at once is one call
            fetch = self._fetches[key] = asyncio.create_task(self._fetch(request))
            fetch.add_done_callback(lambda _: self._fetches.pop(key))
        self._waiting[key] += 1
        try:
            return await asyncio.shield(fetch)
        except asyncio.CancelledError:
            if self._waiting[key] == 1:
                fetch.cancel()
            raise
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    async def drain(self) -> None:
        if ending := [fetch for fetch in self._fetches.values() if fetch.cancelling()]:
            if sent := sum(server.limit.in_flight for server in self.servers):
                logger.info("waiting for up to %d replies that are on their way; they are kept", sent)
            await asyncio.wait(ending)

    async def close(self) -> None:
        for server in self.servers:
            await server.close()

    async def _fetch(self, request: Request) -> LLMResponse:
        while True:
            try:
                return await self._attempts(request)
            except _ElsewhereError:
                if reply := self.response_cache.get(request):
                    self.response_cache.count_hit(request)
                    return reply
                await self.check_orphaned_batches([request])
                await asyncio.sleep(_POLL_S)
            except BaseException:
                if request.key in self._claimed:
                    self.response_cache.give_back(request)
                raise
            finally:
                self._claimed.discard(request.key)

    async def _attempts(self, request: Request) -> LLMResponse:
        useless = 0

        def may_pass(error: BaseException) -> bool:
            nonlocal useless
            if isinstance(error, RequestFailedError) and error.reason in UNUSABLE_RESPONSES:
                useless += 1
                return useless < self.endpoint.max_invalid_responses
            return isinstance(error, RequestFailedError) and error.reason in RETRYABLE

        return await attempts(self.endpoint.attempts, may_pass)(self._call, request)

    async def _call(self, request: Request) -> LLMResponse:
        if request.key in self._claimed:  # it was sent before
            server, number = await self._places.take(first=True)
        else:
            async with self._next:
                self._claimed.add(request.key)
                if not await self.response_cache.claim(request):
                    self._claimed.remove(request.key)
                    raise _ElsewhereError
                server, number = await self._places.take()
        try:
            for pace, amount in zip(self._pace, (1, _likely_tokens(request)), strict=True):
                await pace.keep(amount)
            while wait_s := server.limit.wait_s:
                await asyncio.sleep(wait_s)
            reservation = await self.budget.reserve(request)
        except BaseException:
            self._places.leave(server)
            raise
        # From here on the call is paid for: whoever waits may be cancelled, the call is not.
        call = asyncio.create_task(self._send(server, number, request, reservation))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            call.exception()  # noted in the response cache, and of no more use
            raise

    async def _send(self, server: Server, number: int, request: Request, reservation: Reservation) -> LLMResponse:
        prompt_tokens = completion_tokens = 0
        cost = None
        try:
            try:
                answer = await server.answer(request)
                self.budget.record_model(request.role, answer)
                prompt_tokens, completion_tokens = usage_of(answer, request)
                cost = self.budget.cost(request.model, prompt_tokens, completion_tokens)
                server.went_well()
                reply = request.read(answer, prompt_tokens, completion_tokens)
            finally:
                await self.budget.settle(reservation, prompt_tokens + completion_tokens, cost)
            await self.response_cache.keep(request, reply, cost)
        except RequestFailedError as failure:
            server.failed(number, failure)
            self._warn(server, failure)
            await self.response_cache.save_failure(request, failure, prompt_tokens, completion_tokens, cost)
            raise
        finally:
            # Only now: a process that is killed loses no more calls than may be on their way at once.
            self._places.leave(server)
        return reply

    def _warn(self, server: Server, failure: RequestFailedError) -> None:
        level = logging.DEBUG if failure.reason in self._warned else logging.WARNING
        self._warned.add(failure.reason)
        logger.log(level, "%s: %s (said once; the response cache counts them)", server.address, failure)


def _likely_tokens(request: Request) -> float:
    """Four bytes a token, and half of what the reply may have: for pacing only."""
    return request.max_prompt_tokens / 4 + (request.max_completion_tokens or 0) / 2


class _ElsewhereError(Exception):
    """Another process asks this, or has its reply already."""


class _Pace:
    """At most so much in a minute, evenly: a tenth of a minute's at once, first come, first served."""

    def __init__(self, a_minute: float | None) -> None:
        max_pending = max(1.0, (a_minute or 0.0) / 10)
        self._bucket = AsyncLimiter(max_pending, 60 * max_pending / a_minute) if a_minute else None
        self._turn = asyncio.Lock()

    async def keep(self, amount: float) -> None:
        if self._bucket is None:
            return
        async with self._turn:
            while amount > 0:
                part = min(amount, self._bucket.max_rate)
                await self._bucket.acquire(part)
                amount -= part
