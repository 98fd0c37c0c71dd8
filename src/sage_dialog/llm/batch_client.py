"""`BatchClient`: responses by a hosted batch API, within a day and at a share of the price.

A submitted batch is billed whatever happens to this process. The response cache therefore stores a batch's requests
before the server gets it, and the server stores the cache's name of the batch in its metadata: the next run finds the
batch, collects it, and requests only the missing responses.

Not covered: a call that creates a batch, is in flight while its process is killed, and reaches the server only after
the next run has searched for the batch. Files stay on the server until it deletes them.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from openai.types import Batch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from sage_dialog.llm.answers import cached_tokens, token_usage
from sage_dialog.llm.batch_api import ENDED, BatchApi, parse_lines, queue_is_full, request_line
from sage_dialog.llm.batch_queue import BatchQueue, PendingRequest
from sage_dialog.llm.budget import Budget, Reservation
from sage_dialog.llm.client import Item, LLMClient, Result
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import (
    FailureReason,
    LLMResponse,
    Request,
    RequestFailedError,
    RequestRejectedError,
)
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.llm.retries import retry
from sage_dialog.llm.server import REJECTIONS, Server

logger = logging.getLogger(__name__)

_PENDING_BATCHES = 4  # limit on pending items, in full batches
_MAX_HOLD_S = 600.0  # until a batch is submitted although some items neither wait for a response nor end


class BatchSettings(BaseModel):
    """Settings in `conf/*/catalog_roles.yml`. The defaults are the limits of the OpenAI API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poll_s: float = Field(60, gt=0, description="interval of status requests, in seconds")
    max_requests: int = Field(50_000, ge=1, description="limit on the requests of a batch")
    max_bytes: int = Field(200_000_000, ge=1, description="limit on the bytes of a batch's file")
    completion_window: str = Field("24h", description="time for the server; requests that are left then expire")
    rounds: int = Field(3, ge=1, description="limit on the batches that a run may put a request into")


@dataclass
class _Batch:
    """A batch of this process."""

    name: str
    requests: dict[str, Request]  # by custom id
    id: str | None = None
    submitted: bool = False  # the server has it, or may have it
    alone: bool = True  # no other batch of this client was open when it was submitted
    reservations: dict[str, Reservation] = field(default_factory=dict)


class BatchClient(LLMClient):
    """Starts a round of batches when one is full, or when no pending item can go on without a response.

    A round adopts the batches of earlier runs, submits its requests in new ones, and collects all. Later requests, such
    as those that show a model its error, form the next round, once all open batches are collected. An item must not
    wait for anything but `request`; one that does delays its round by ten minutes. The endpoint's concurrency and rate
    limits are for live calls and not used.

    If a cap leaves room for some of the requests only, these are submitted, and the others wait: the actual cost of the
    batch may leave room for them. `CapReachedError` is raised when all open batches are collected.

    Raises:
        ValueError: if the endpoint has several base URLs; a batch belongs to one server.
    """

    batched = True

    def __init__(
        self,
        endpoint: Endpoint,
        response_cache: ResponseCache,
        budget: Budget,
        max_failed_share: float = 1.0,
        settings: BatchSettings | None = None,
    ) -> None:
        super().__init__(endpoint, response_cache, budget, max_failed_share)
        if len(endpoint.base_urls) != 1:
            raise ValueError(f"a batch belongs to one server, but base_urls has {len(endpoint.base_urls)}; name one.")
        self.settings = settings or BatchSettings()
        self.max_pending = _PENDING_BATCHES * self.settings.max_requests
        self._server = Server(endpoint, endpoint.base_urls[0])
        self._api = BatchApi(self._server, self.settings.completion_window)
        self._queue = BatchQueue(self.settings.rounds, endpoint.max_invalid_responses, self._check_soon)
        self._hold_timer: asyncio.TimerHandle | None = None
        self._rounds: set[asyncio.Task[None]] = set()
        self._collected = False  # a batch of the open rounds
        self._submitting = asyncio.Lock()
        self._succeeded = False  # a request of this model, in this run or an earlier one
        self._open: dict[str, asyncio.Task[None]] = {}  # batches that are submitted and not collected

    def map(self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        with self._queue.counted(function, items) as (counted_function, counted_items):
            yield from super().map(counted_function, counted_items)

    async def request(self, request: Request) -> LLMResponse:
        if response := self.response_cache.get(request):
            self._succeeded = True
            return response
        return await self._queue.response(request)

    async def drain(self) -> None:
        """Wait until the server has all that is being submitted; open batches are left for the next run to collect."""
        async with self._submitting:
            tasks = list(self._open.values())
        if tasks:
            logger.info("%d batches stay open at %s; the same command collects them", len(tasks), self._server.address)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def close(self) -> None:
        await self.drain()
        await self._server.close()

    # Rounds

    def _check_soon(self) -> None:
        """Check after all tasks that are ready have run, so that concurrent requests go into one batch."""
        asyncio.get_running_loop().call_soon(self._check)

    def _check(self) -> None:
        if not self._queue:
            return
        complete = self._queue.stalled and not (self._rounds and self._collected)  # else what fails is sent piecemeal
        if complete or len(self._queue) >= self.settings.max_requests:
            self._start_round()
        elif self._hold_timer is None:
            self._hold_timer = asyncio.get_running_loop().call_later(_MAX_HOLD_S, self._end_hold)

    def _end_hold(self) -> None:
        self._hold_timer = None
        if self._queue and not (self._rounds and self._collected):
            self._start_round()
        else:
            self._check()

    def _start_round(self) -> None:
        if not self._rounds:
            self._collected = False
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        task = asyncio.create_task(self._round(self._queue.take()))
        self._rounds.add(task)
        task.add_done_callback(self._end_round)

    def _end_round(self, task: asyncio.Task[None]) -> None:
        self._rounds.discard(task)
        self._check_soon()

    async def _round(self, queued: dict[str, PendingRequest]) -> None:
        """Adopt the batches of earlier runs, submit new ones, collect all, and queue what is then left."""
        try:
            async with self._submitting:
                open_batches = await self.response_cache.adopt_batches(self._server.address, self.endpoint.model)
                batches = [
                    _Batch(name, requests, batch_id, submitted=True) for name, batch_id, requests in open_batches
                ]
                tasks = [asyncio.create_task(self._run(batch)) for batch in batches]
        except Exception as error:
            self._queue.fail_all(error)
            return
        adopted = {key for batch in batches for key in batch.requests}
        for requests in self._split([one.request for key, one in queued.items() if key not in adopted]):
            batches.append(_Batch(uuid.uuid4().hex, requests))  # no hash of the content: a batch may be resubmitted
            tasks.append(asyncio.create_task(self._run(batches[-1])))
        await asyncio.gather(*tasks, return_exceptions=True)  # `drain` may cancel them
        if not any(batch.id for batch in batches):  # requests of other processes, or open batches leave no room
            await asyncio.sleep(self.settings.poll_s)
        self._queue.put_back(queued.values())

    def _split(self, requests: Sequence[Request]) -> Iterator[dict[str, Request]]:
        """Yield the requests of each batch by key, within the limits of the server."""
        chosen: dict[str, Request] = {}
        size = 0
        for request in requests:
            size += (length := len(request_line(request, request.body())))
            if chosen and (len(chosen) >= self.settings.max_requests or size > self.settings.max_bytes):
                yield chosen
                chosen, size = {}, length
            chosen[request.key] = request
        if chosen:
            yield chosen

    # One batch

    async def _run(self, batch: _Batch) -> None:
        """Process a batch until its responses are saved and delivered. An error fails all pending requests."""
        try:
            try:
                await self._process(batch)
            finally:
                self._open.pop(batch.name, None)
                for reservation in batch.reservations.values():
                    self.budget.settle(reservation, 0, None)
                release = self.response_cache.release_batch if batch.submitted else self.response_cache.forget_batch
                await release(batch.name)
        except Exception as error:
            if isinstance(error, RequestFailedError):  # of the batch, not of a request
                error = RequestRejectedError(
                    f"{self._server.address}: {error}. The batch is not lost: the same command collects it."
                )
            if any(key in self._queue for key in batch.requests):
                self._queue.fail_all(error)
            else:
                logger.warning("batch %s, which no item waits for: %s", batch.id or batch.name, error)

    async def _process(self, batch: _Batch) -> None:
        if not batch.submitted:
            async with self._submitting:
                await self._submit(batch)
        else:
            logger.info(
                "batch %s of an earlier run is adopted: %d requests", batch.id or batch.name, len(batch.requests)
            )
            self._mark_open(batch)
            if batch.id is None and (found := await self._api.find(batch.name)):
                batch.id = found.id
                await self.response_cache.mark_submitted(batch.name, batch.id)
            batch.submitted = batch.id is not None
        if batch.id is not None:
            await self._collect(batch, *await self._wait_until_ended(batch))

    def _mark_open(self, batch: _Batch) -> None:
        batch.alone = not self._open
        self._open[batch.name] = cast("asyncio.Task[None]", asyncio.current_task())

    async def _submit(self, batch: _Batch) -> None:
        """Submit those of the requests that items wait for, no other process sends, and the caps leave room for."""
        wanted = [request for key, request in batch.requests.items() if key in self._queue]
        opened = await self.response_cache.open_batch(batch.name, self._server.address, self.endpoint.model, wanted)
        requests = {request.key: request for request in opened}
        others = []
        for request in wanted:
            if request.key in requests:
                continue
            if response := self.response_cache.get(request):
                self._queue.resolve(request.key, response)
            else:
                others.append(request)
        await self.check_orphaned_batches(others, collects=self._server.address)
        batch.requests = requests
        await self._reserve(batch)
        if batch.requests:
            self._mark_open(batch)
            await self._send(batch)

    async def _reserve(self, batch: _Batch) -> None:
        """Reserve the batch's cost, and remove the requests that the caps leave no room for."""
        for key, request in batch.requests.items():
            if key not in self._queue:
                continue
            reservation = self.budget.try_reserve(request, batch=True)
            if reservation is None and not batch.reservations and not self._open:
                # No batch of this client could make room; calls of another client could.
                reservation = await self.budget.reserve(request, batch=True)
            if reservation is None:
                break
            batch.reservations[key] = reservation
        if removed := [key for key in batch.requests if key not in batch.reservations]:
            batch.requests = {key: batch.requests[key] for key in batch.reservations}
            await self.response_cache.remove_from_batch(batch.name, removed)

    async def _send(self, batch: _Batch) -> None:
        """Create the batch on the server, once."""
        file_id = await self._api.upload(batch.name, b"".join(map(self._line, batch.requests.values())))

        async def create() -> str:
            may_exist, batch.submitted = batch.submitted, True
            try:
                return await self._api.create(batch.name, file_id, may_exist=may_exist)
            except RequestRejectedError:
                batch.submitted = may_exist
                raise

        # Not by the SDK's retries: an attempt that seems to have failed may have created the batch.
        batch.id = await retry(create, self.endpoint.attempts, lambda _: True)
        await self.response_cache.mark_submitted(batch.name, batch.id)
        logger.info(
            "batch %s: %d requests are submitted to %s; if this run ends, the same command collects them",
            *(batch.id, len(batch.requests), self._server.address),
        )

    def _line(self, request: Request) -> bytes:
        return request_line(request, self._server.body(request, self._queue.invalid_responses(request.key)))

    async def _wait_until_ended(self, batch: _Batch) -> tuple[Batch, list[bytes]]:
        """Return the state of the batch at its end, and the lines of its files."""
        assert batch.id is not None
        failures = 0
        with tqdm(total=len(batch.requests), desc=f"batch {batch.id}", unit="request") as bar:
            while True:
                try:
                    state = await self._api.retrieve(batch.id)
                    if counts := state.request_counts:
                        bar.update(counts.completed + counts.failed - bar.n)
                        bar.set_postfix_str(f"{state.status}, {counts.failed} failed")
                    if state.status in ENDED:
                        return state, await self._api.lines(state)
                    failures = 0
                except RequestFailedError as failure:
                    failures += 1
                    if failures >= self.endpoint.attempts:
                        raise
                    logger.warning("batch %s: %s; trying again", batch.id, failure)
                await asyncio.sleep(self.settings.poll_s)

    async def _collect(self, batch: _Batch, state: Batch, lines: Sequence[bytes]) -> None:
        """Save all responses in one commit, and only then deliver them."""
        if state.status == "failed":
            batch.submitted = False
            if queue_is_full(state) and not batch.alone:
                return  # the requests go into the next round
            raise self._api.rejection(state)
        answers = parse_lines(batch.id, batch.requests, lines)
        outcomes: dict[str, LLMResponse | RequestFailedError] = {}
        rejection: RequestRejectedError | None = None
        rejected: list[tuple[Request, RequestFailedError]] = []
        saved, failed = [], []
        for key, request in batch.requests.items():
            prompt_tokens = completion_tokens = 0
            cost = None
            try:
                body = self._api.parse_answer(state, answers.get(key))
                self.budget.record_model(request.role, body)
                prompt_tokens, completion_tokens = token_usage(body, request)
                cached = cached_tokens(body, prompt_tokens)
                cost = self.budget.cost(
                    request.model, prompt_tokens, completion_tokens, cached_tokens=cached, batch=True
                )
                response = outcomes[key] = request.parse(body, prompt_tokens, completion_tokens)
                saved.append((request, response, cost))
            except RequestFailedError as failure:
                outcomes[key] = failure
                failed.append((request, failure, prompt_tokens, completion_tokens, cost))
            except RequestRejectedError as error:
                if self._server.leave_out(request.body(), error):
                    outcomes[key] = unsupported = RequestFailedError(FailureReason.UNSUPPORTED, error.detail)
                    failed.append((request, unsupported, 0, 0, None))
                elif error.status in REJECTIONS:
                    rejected.append((request, RequestFailedError(FailureReason.REJECTED, error.detail)))
                    rejection = rejection or error
                else:
                    rejection = error
            if reservation := batch.reservations.pop(key, None):
                self.budget.settle(reservation, prompt_tokens + completion_tokens, cost)
        if rejected and (saved or self._succeeded) and rejection is not None and rejection.status in REJECTIONS:
            rejection = None  # the server takes other requests
            outcomes |= {request.key: failure for request, failure in rejected}
            failed += [(request, failure, 0, 0, None) for request, failure in rejected]
        self._succeeded, self._collected = self._succeeded or bool(saved), True
        await self.response_cache.collect_batch(batch.name, saved, failed)
        reasons = Counter(failure.reason.value for _, failure, *_ in failed)
        logger.log(
            logging.WARNING if len(saved) < len(batch.requests) else logging.INFO,
            "batch %s is %s: %d responses to %d requests%s",
            *(batch.id, state.status, len(saved), len(batch.requests)),
            "".join(f"; {reason}: {number}" for reason, number in reasons.most_common()),
        )
        for key, outcome in outcomes.items():
            self._queue.resolve(key, outcome)
        if rejection is not None:
            raise rejection
