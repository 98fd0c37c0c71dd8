"""`LiveClient`: one call for each request, spread over servers, within rate limits, with retries."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial

from aiolimiter import AsyncLimiter

from sage_dialog.llm.answers import cached_tokens, token_usage
from sage_dialog.llm.budget import Budget, Reservation
from sage_dialog.llm.client import LLMClient
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import (
    RETRYABLE,
    UNUSABLE_RESPONSES,
    ChatRequest,
    FailureReason,
    LLMResponse,
    Request,
    RequestFailedError,
    RequestRejectedError,
    ServerUnreachableError,
)
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.llm.retries import retry
from sage_dialog.llm.server import REJECTIONS, Server
from sage_dialog.llm.server_pool import ServerPool

logger = logging.getLogger(__name__)

_MAX_UNDECIDED = 20  # refused requests before the first success; more end the run
_UNREACHABLE_S = 30.0  # until the run ends where no server has ever answered
_WARN_AGAIN_S = 300.0  # interval of the warnings of one kind of failure
_RATIO_WEIGHT = 0.05  # of the latest reply in the moving average
_SLOTS_BY_SAVES = 8  # slots by responses that are on their way to the disk without one
_STOPPING_S = 0.2  # from an error that ends the run until its slot is free
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
        # Calls that give up their slot before their response is on disk; the others of these `slots` after it.
        self._saved_without_slot = asyncio.Semaphore(slots // _SLOTS_BY_SAVES)
        calls, tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        self._calls_limit = None if calls is None else RateLimit(calls)
        self._tokens_limit = None if tokens is None else RateLimit(tokens)
        self._fetches: dict[str, asyncio.Task[LLMResponse]] = {}
        self._waiting: Counter[str] = Counter()
        self._claimed: set[str] = set()
        self._invalid: dict[str, int] = {}  # unusable responses so far, by request
        self._warned_at: dict[FailureReason, float] = {}
        self._unreachable_since: float | None = None
        self._succeeded = False  # a request of this model, in this run or an earlier one
        self._tokens_ratio = 1.0  # tokens of a call by those that its size suggests
        self._polling = 0  # requests that wait for another process
        self._undecided: dict[asyncio.Future[None], RequestRejectedError] = {}  # refused before the first success

    async def request(self, request: Request) -> LLMResponse:
        key = request.key
        while (fetch := self._fetches.get(key)) and fetch.cancelling():
            await asyncio.wait([fetch])  # it was cancelled, but its call may be in flight
        if response := self.response_cache.get(request):
            self._succeed()
            return response
        if fetch is None:  # equal concurrent requests share one call
            fetch = self._fetches[key] = asyncio.create_task(self._fetch(request))
            fetch.add_done_callback(lambda _: self._end_fetch(key))
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
                self._succeed()
                return response
            await self.check_orphaned_batches([request])
            self._polling += 1
            self._check_undecided()
            try:
                await asyncio.sleep(_POLL_S)
            finally:
                self._polling -= 1

    async def _retry(self, request: Request) -> LLMResponse | None:
        """Return the response; None if another process sends the request, or its response is saved already."""
        while True:
            self._invalid[request.key] = 0
            try:
                return await retry(
                    partial(self._call, request), self.endpoint.attempts, partial(self._retryable, request.key)
                )
            except RequestFailedError as failure:
                if failure.reason is not FailureReason.UNSUPPORTED:  # else again, without the field
                    raise
            finally:
                del self._invalid[request.key]

    def _retryable(self, key: str, failure: RequestFailedError) -> bool:
        if failure.reason not in UNUSABLE_RESPONSES:
            return failure.reason in RETRYABLE
        self._invalid[key] += 1
        # At temperature 0 an equal request gets an equal response.
        return (
            self._invalid[key] < self.endpoint.max_invalid_responses and self.endpoint.sampling.get("temperature") != 0
        )

    async def _call(self, request: Request) -> LLMResponse | None:
        if request.key in self._claimed:  # a retry
            server, number = await self._pool.acquire(first=True)
        else:
            async with self._claims_ahead:
                self._claimed.add(request.key)
                if not await self.response_cache.claim(request):
                    return None
                server, number = await self._pool.acquire()
        with ExitStack() as slot:
            slot.callback(self._pool.release, server)
            if self._calls_limit is not None:
                await self._calls_limit.acquire(1)
            if self._tokens_limit is not None:
                await self._tokens_limit.acquire(self._expected_tokens(request))
            while wait_s := server.limit.wait_s:
                await asyncio.sleep(wait_s)
            reservation = await self.budget.reserve(request)
            # The call is billed from here on: a cancellation stops those who wait for it, not the call.
            call = asyncio.create_task(self._send(server, number, slot.pop_all(), request, reservation))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            call.exception()  # marks it as retrieved; it is in the response cache
            raise
        except RequestRejectedError as error:
            if error.status not in REJECTIONS or not isinstance(request, ChatRequest):  # policies: all or none
                raise
            await self._decide(error)
            failure = RequestFailedError(FailureReason.REJECTED, error.detail)
            await self.response_cache.save_failure(request, failure, 0, 0, None)
            raise failure from None

    async def _decide(self, error: RequestRejectedError) -> None:
        """Return once any request has succeeded; raise the error if none can, or too many are refused before."""
        if self._succeeded:
            return
        decided = asyncio.get_running_loop().create_future()
        self._undecided[decided] = error
        self._check_undecided()
        try:
            await decided
        finally:
            del self._undecided[decided]

    def _check_undecided(self) -> None:
        # What other processes request is not waited for: they may wait for this one.
        none_left = len(self._undecided) >= min(_MAX_UNDECIDED, len(self._fetches) - self._polling)
        for decided, error in self._undecided.items():
            if decided.done():
                continue
            if self._succeeded:
                decided.set_result(None)
            elif none_left:
                decided.set_exception(error)

    def _succeed(self) -> None:
        if not self._succeeded:
            self._succeeded = True
            self._check_undecided()

    def _end_fetch(self, key: str) -> None:
        del self._fetches[key]
        self._check_undecided()

    def _check_reachable(self, server: Server, failure: RequestFailedError) -> None:
        """Raise ServerUnreachableError if no server has answered since the first call, which is a while ago."""
        if any(server.has_answered for server in self.servers):
            return
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        if now - self._unreachable_since >= _UNREACHABLE_S:
            raise ServerUnreachableError(
                f"{server.address} cannot be reached, and has not answered since the run began: {failure.detail}. "
                "Check base_urls, the network, and whether the server runs; the same command goes on from there."
            )

    def _expected_tokens(self, request: Request) -> float:
        """Return the tokens that a call takes, for the rate limit: what its size suggests, as replies correct it."""
        return self._tokens_ratio * _tokens_by_size(request)

    def _correct_expectation(self, request: Request, tokens: int) -> None:
        self._tokens_ratio += _RATIO_WEIGHT * (min(tokens / _tokens_by_size(request), 2.0) - self._tokens_ratio)

    def _warn(self, server: Server, failure: RequestFailedError) -> None:
        now = time.monotonic()
        due = now - self._warned_at.get(failure.reason, -_WARN_AGAIN_S) >= _WARN_AGAIN_S
        if due:
            self._warned_at[failure.reason] = now
        logger.log(
            logging.WARNING if due else logging.DEBUG,
            "%s: %s (logged every %.0f minutes; the response cache counts them)",
            *(server.address, failure, _WARN_AGAIN_S / 60),
        )

    async def _send(
        self, server: Server, number: int, slot: ExitStack, request: Request, reservation: Reservation
    ) -> LLMResponse:
        prompt_tokens = completion_tokens = 0
        cost = None
        with slot:
            try:
                try:
                    answer = await server.send(request, self._invalid.get(request.key, 0))
                    self.budget.record_model(request.role, answer)
                    prompt_tokens, completion_tokens = token_usage(answer, request)
                    cached = cached_tokens(answer, prompt_tokens)
                    cost = self.budget.cost(request.model, prompt_tokens, completion_tokens, cached_tokens=cached)
                    if server.on_success():
                        self._warned_at.pop(FailureReason.UNREACHABLE, None)
                    self._correct_expectation(request, prompt_tokens + completion_tokens)
                    self.correct_estimate(request.role, prompt_tokens, completion_tokens)
                    response = request.parse(answer, prompt_tokens, completion_tokens)
                finally:
                    self.budget.settle(reservation, prompt_tokens + completion_tokens, cost)
                await self._save(request, response, cost, slot)
                self._succeed()
            except RequestFailedError as failure:
                server.on_failure(number, failure)
                if failure.reason is not FailureReason.UNSUPPORTED:
                    self._warn(server, failure)
                await self.response_cache.save_failure(request, failure, prompt_tokens, completion_tokens, cost)
                if failure.reason is FailureReason.UNREACHABLE:
                    self._check_reachable(server, failure)
                raise
            except RequestRejectedError as error:
                if error.status not in REJECTIONS:
                    # It ends the run: the slot is free after the other requests are cancelled.
                    asyncio.get_running_loop().call_later(_STOPPING_S, slot.pop_all().close)
                raise
        return response

    async def _save(self, request: Request, response: LLMResponse, cost: float | None, slot: ExitStack) -> None:
        """Save a response: a few at a time after their slot is free, the others before.

        A killed process loses no more than these few and the calls in flight.
        """
        if self._saved_without_slot.locked():
            await self.response_cache.save(request, response, cost)
            return
        async with self._saved_without_slot:
            slot.close()
            await self.response_cache.save(request, response, cost)


class RateLimit:
    """A limit per minute, enforced evenly: bursts of a tenth of a minute's amount, first come, first served."""

    def __init__(self, per_minute: float) -> None:
        burst = max(1.0, per_minute / 10)
        self._limiter = AsyncLimiter(burst, 60 * burst / per_minute)
        self._turn = asyncio.Lock()

    async def acquire(self, amount: float) -> None:
        """Wait until `amount` is within the limit; it may exceed a burst."""
        async with self._turn:
            while amount > 0:
                part = min(amount, self._limiter.max_rate)
                await self._limiter.acquire(part)
                amount -= part


def _tokens_by_size(request: Request) -> float:
    """Return an estimate before any reply: four bytes a prompt token, and half of the limit on the response."""
    return request.max_prompt_tokens / 4 + (request.max_completion_tokens or 0) / 2
