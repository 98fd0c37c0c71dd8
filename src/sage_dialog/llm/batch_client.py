"""`BatchClient`: responses by a hosted batch API, within a day and at a share of the price.

A submitted batch is billed whatever happens to this process. The response cache therefore stores a batch's requests
before the server gets it, and the server stores the cache's name of the batch in its metadata: the next run finds the
batch, collects it, and requests only what it did not bring.

Not covered: a call that creates a batch, is in flight while its process is killed, and reaches the server only after
the next run has looked for the batch. Files stay on the server until it deletes them.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from openai.types import Batch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from sage_dialog.llm.batch_api import ENDED, BatchApi, parse_lines, queue_is_full, request_line
from sage_dialog.llm.budget import Budget, Reservation
from sage_dialog.llm.client import Item, LLMClient, Result
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import (
    RETRYABLE,
    UNUSABLE_RESPONSES,
    FailureReason,
    LLMResponse,
    Request,
    RequestFailedError,
    RequestRejectedError,
)
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.llm.server import Server, retrying, token_usage

logger = logging.getLogger(__name__)

_MAX_HOLD_S = 600.0  # until a batch is submitted although some items neither wait for a response nor end
_AGAIN = (*RETRYABLE, *UNUSABLE_RESPONSES, FailureReason.EXPIRED)  # failures after which a request is sent again

_item: ContextVar[object | None] = ContextVar("item", default=None)


class BatchSettings(BaseModel):
    """Settings in `conf/*/catalog_roles.yml`. The defaults are the limits of the OpenAI API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poll_s: float = Field(60, gt=0, description="seconds between two looks at a batch")
    max_requests: int = Field(50_000, ge=1, description="limit on the requests of a batch, and on pending items")
    max_bytes: int = Field(200_000_000, ge=1, description="limit on the bytes of a batch's file")
    completion_window: str = Field("24h", description="time for the server; requests that are left then expire")
    rounds: int = Field(3, ge=1, description="limit on the batches that a run may put a request into")


@dataclass
class _Pending:
    """A request without a response yet, and the items that wait for it."""

    request: Request
    response: asyncio.Future[LLMResponse]
    items: list[object | None] = field(default_factory=list)
    rounds: int = 0
    invalid: int = 0


@dataclass
class _Stream:
    """The number of items that one `map` has taken (in its thread) and that have ended (in the loop's thread)."""

    taken: int = 0
    ended: int = 0


@dataclass
class _Batch:
    """An open batch of this process. Without an id, the server may or may not have it."""

    name: str
    requests: dict[str, Request]  # by custom id
    id: str | None = None
    reservations: dict[str, Reservation] = field(default_factory=dict)
    alone: bool = True  # no other batch of this client was open when it was submitted
    sending: asyncio.Task[None] | None = None
    running: asyncio.Task[None] | None = None


class BatchClient(LLMClient):
    """Submits a batch when it is full, or when no pending item can go on without a response.

    Later requests, such as those that show a model its error, form the next batch; several batches may be open at a
    time. An item must not wait for anything but `request`; one that does delays its batch by ten minutes. The
    endpoint's concurrency and rate limits are for live calls and not used.

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
        self.max_pending = self.settings.max_requests
        self._server = Server(endpoint, endpoint.base_urls[0])
        self._api = BatchApi(self._server, self.settings.completion_window)
        self._streams: list[_Stream] = []
        self._waiting: Counter[object] = Counter()  # items, each with the number of responses it waits for
        self._pending: dict[str, _Pending] = {}
        self._queued: dict[str, _Pending] = {}  # for the next batch
        self._deferred: dict[str, _Pending] = {}  # until the end of a batch makes room
        self._open: dict[str, _Batch] = {}
        self._submitting: asyncio.Task[None] | None = None
        self._check_scheduled = False
        self._hold_timer: asyncio.TimerHandle | None = None

    def map(self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        stream = _Stream()

        def taken() -> Iterator[Item]:
            for item in items:
                stream.taken += 1
                yield item

        async def counted(item: Item) -> Result:
            _item.set(object())  # visible in all that is awaited from here
            try:
                return await function(item)
            finally:
                stream.ended += 1
                self._schedule_check()

        self._streams.append(stream)
        try:
            yield from super().map(counted, taken())
        finally:
            self._streams.remove(stream)

    async def request(self, request: Request) -> LLMResponse:
        if response := self.response_cache.get(request):
            return response
        pending = self._pending.get(request.key)
        if pending is None:
            pending = self._pending[request.key] = _Pending(request, asyncio.get_running_loop().create_future())
            self._enqueue([pending])
        item = _item.get()
        pending.items.append(item)
        self._waiting[item] += 1
        self._schedule_check()
        try:
            return await asyncio.shield(pending.response)
        finally:
            if not pending.response.done():
                pending.items.remove(item)
                self._resume(item)
                if not pending.items:  # all of them were cancelled
                    self._discard(pending)

    async def drain(self) -> None:
        """Wait until the server has all that is being submitted; open batches are left for the next run to collect."""
        if self._submitting is not None:
            await asyncio.wait([self._submitting])
        if sending := [batch.sending for batch in self._open.values() if batch.sending is not None]:
            await asyncio.wait(sending)
        if running := [batch.running for batch in self._open.values() if batch.running is not None]:
            logger.info(
                "%d batches stay open at %s; the same command collects them", len(running), self._server.address
            )
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def close(self) -> None:
        await self.drain()
        await self._server.close()

    # The next batch

    def _enqueue(self, pending: Iterable[_Pending]) -> None:
        for one in pending:
            if self._pending.get(one.request.key) is one:
                self._queued[one.request.key] = one
        if self._queued and self._hold_timer is None:
            self._hold_timer = asyncio.get_running_loop().call_later(_MAX_HOLD_S, self._start_submitting)
        self._schedule_check()

    def _schedule_check(self) -> None:
        """Check after all tasks that are ready have run, so that concurrent requests go into one batch."""
        if not self._check_scheduled:
            self._check_scheduled = True
            asyncio.get_running_loop().call_soon(self._check)

    def _check(self) -> None:
        self._check_scheduled = False
        active = sum(stream.taken - stream.ended for stream in tuple(self._streams))
        waiting = len(self._waiting) - (None in self._waiting)  # None: requests outside of `map`
        if self._queued and (waiting >= active or len(self._queued) >= self.settings.max_requests):
            self._start_submitting()

    def _start_submitting(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        if self._submitting is None or self._submitting.done():
            self._submitting = asyncio.create_task(self._submit())

    async def _submit(self) -> None:
        try:
            address, model = self._server.address, self.endpoint.model
            for name, batch_id, requests in await self.response_cache.adopt_batches(address, model):
                logger.info("batch %s of an earlier run is adopted: %d requests", batch_id or name, len(requests))
                self._start(_Batch(name, requests, batch_id))
            for batch in self._open.values():
                for request in batch.requests.values():
                    self._queued.pop(request.key, None)
            while self._queued:
                await self._make_batch()
        except Exception as error:
            self._fail_all(error)
        finally:
            self._enqueue(())

    async def _make_batch(self) -> None:
        """Submit one batch of queued requests: those that fit, are not taken elsewhere and are within the caps."""
        chosen: list[_Pending] = []
        lines: dict[str, bytes] = {}
        size = 0
        for key, pending in self._queued.items():
            line = request_line(pending.request)
            if chosen and (len(chosen) >= self.settings.max_requests or size + len(line) > self.settings.max_bytes):
                break
            chosen.append(pending)
            lines[key] = line
            size += len(line)
        for key in lines:
            del self._queued[key]
        name = uuid.uuid4().hex  # not a hash of the content: an expired batch may be submitted again
        opened = await self.response_cache.open_batch(
            name, self._server.address, self.endpoint.model, [pending.request for pending in chosen]
        )
        batch = _Batch(name, {request.key: request for request in opened})
        try:
            await self._wait_for_others([pending for pending in chosen if pending.request.key not in batch.requests])
            await self._reserve(batch)
        except Exception:
            await self.response_cache.forget_batch(name)
            raise
        if batch.requests:
            self._start(batch, b"".join(lines[key] for key in batch.requests))

    async def _reserve(self, batch: _Batch) -> None:
        """Reserve the batch's cost, and remove the requests that the caps leave no room for."""
        for key, request in batch.requests.items():
            if key not in self._pending:
                continue
            reservation = self.budget.try_reserve(request, batch=True)
            if reservation is None and not batch.reservations and not self._open:
                # No batch of this client could make room; calls of another client could.
                reservation = await self.budget.reserve(request, batch=True)
            if reservation is None:
                break
            batch.reservations[key] = reservation
        removed = [key for key in batch.requests if key not in batch.reservations]
        for key in removed:
            del batch.requests[key]
        if removed:
            await self.response_cache.remove_from_batch(batch.name, removed)
        deferred = {key: self._pending[key] for key in removed if key in self._pending}
        if batch.requests or self._open:
            self._deferred.update(deferred)
        else:  # the batch that was in the way has just ended
            self._enqueue(deferred.values())

    async def _wait_for_others(self, elsewhere: Sequence[_Pending]) -> None:
        """Enqueue requests again after `poll_s` if another process sends them."""
        waiting = []
        for pending in elsewhere:
            if self._pending.get(pending.request.key) is not pending:
                continue
            if response := self.response_cache.get(pending.request):
                self._resolve(pending, response)
            else:
                waiting.append(pending)
        if waiting:
            await self.check_orphaned_batches([one.request for one in waiting], collects=self._server.address)
            asyncio.get_running_loop().call_later(self.settings.poll_s, self._enqueue, waiting)

    # An open batch

    def _start(self, batch: _Batch, content: bytes | None = None) -> None:
        batch.alone = not self._open
        self._open[batch.name] = batch
        if batch.id is None:
            batch.sending = asyncio.create_task(self._send(batch, content))
        batch.running = asyncio.create_task(self._run(batch))

    async def _run(self, batch: _Batch) -> None:
        """Process a batch from its submission until its responses are saved and delivered."""
        no_room = False
        try:
            if batch.sending is not None:
                await asyncio.shield(batch.sending)
            if batch.id is not None:
                await self._collect(batch, *await self._wait_until_ended(batch))
        except _QueueFullError:
            no_room = True
        except Exception as error:
            if isinstance(error, RequestFailedError):  # of the batch, not of a request
                error = RequestRejectedError(
                    f"{self._server.address}: {error}. The batch is not lost: the same command collects it."
                )
            if self._pending_of(batch):
                self._fail_all(error)
            else:
                logger.warning("batch %s, which no item waits for: %s", batch.id or batch.name, error)
        finally:
            del self._open[batch.name]
            for reservation in batch.reservations.values():
                await self.budget.settle(reservation, 0, None)
            await self.response_cache.release_batch(batch.name)
            # Requests without a response are sent again, and the caps may leave room for more now.
            self._deferred.update({pending.request.key: pending for pending in self._pending_of(batch)})
            if not (no_room and self._open):
                deferred, self._deferred = self._deferred, {}
                self._enqueue(deferred.values())

    async def _send(self, batch: _Batch, content: bytes | None) -> None:
        """Create the batch on the server, once; without content, find out whether an earlier run has created it."""
        if content is None:
            if found := await self._api.find(batch.name):
                batch.id = found.id
                await self.response_cache.mark_submitted(batch.name, batch.id)
            else:
                await self.response_cache.forget_batch(batch.name)
            return
        tries = 0
        try:
            file_id = await self._api.upload(batch.name, content)
            del content
            # Not by the SDK's retries: an attempt that seems to have failed may have created the batch.
            retryable = retrying(self.endpoint.attempts, lambda error: isinstance(error, RequestFailedError))
            async for attempt in retryable:
                with attempt:
                    tries += 1
                    batch.id = await self._api.create(batch.name, file_id, may_exist=tries > 1)
        except (RequestFailedError, RequestRejectedError) as error:
            if not tries or (tries == 1 and isinstance(error, RequestRejectedError)):  # the server cannot have it
                await self.response_cache.forget_batch(batch.name)
            raise
        assert batch.id is not None
        await self.response_cache.mark_submitted(batch.name, batch.id)
        logger.info(
            "batch %s: %d requests are submitted to %s; if this run ends, the same command collects them",
            *(batch.id, len(batch.requests), self._server.address),
        )

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
            await self.response_cache.forget_batch(batch.name)
            if queue_is_full(state) and not batch.alone:
                raise _QueueFullError
            raise self._api.rejection(state)
        answers = parse_lines(batch.id, batch.requests, lines)
        outcomes: dict[str, LLMResponse | RequestFailedError] = {}
        rejection: RequestRejectedError | None = None
        saved, failed = [], []
        for key, request in batch.requests.items():
            prompt_tokens = completion_tokens = 0
            cost = None
            try:
                body = self._api.parse_answer(state, answers.get(key))
                self.budget.record_model(request.role, body)
                prompt_tokens, completion_tokens = token_usage(body, request)
                cost = self.budget.cost(request.model, prompt_tokens, completion_tokens, batch=True)
                response = outcomes[request.key] = request.parse(body, prompt_tokens, completion_tokens)
                saved.append((request, response, cost))
            except RequestFailedError as failure:
                outcomes[request.key] = failure
                failed.append((request, failure, prompt_tokens, completion_tokens, cost))
            except RequestRejectedError as error:
                rejection = error
            if reservation := batch.reservations.pop(key, None):
                await self.budget.settle(reservation, prompt_tokens + completion_tokens, cost)
        await self.response_cache.collect_batch(batch.name, saved, failed)
        reasons = Counter(failure.reason.value for _, failure, *_ in failed)
        logger.log(
            logging.WARNING if len(saved) < len(batch.requests) else logging.INFO,
            "batch %s is %s: %d responses to %d requests%s",
            *(batch.id, state.status, len(saved), len(batch.requests)),
            "".join(f"; {reason}: {number}" for reason, number in reasons.most_common()),
        )
        for pending in self._pending_of(batch):
            if outcome := outcomes.get(pending.request.key):
                self._resolve(pending, outcome)
        if rejection is not None:
            raise rejection

    # Items that wait

    def _resolve(self, pending: _Pending, outcome: LLMResponse | Exception) -> None:
        """Deliver an outcome to the items that wait for it, unless the request is to be sent again."""
        if isinstance(outcome, RequestFailedError):
            pending.rounds += 1
            pending.invalid += outcome.reason in UNUSABLE_RESPONSES
            left = pending.rounds < self.settings.rounds and pending.invalid < self.endpoint.max_invalid_responses
            if outcome.reason in _AGAIN and left:
                return
        self._discard(pending)
        if isinstance(outcome, LLMResponse):
            pending.response.set_result(outcome)
        elif pending.items:
            pending.response.set_exception(outcome)
        for item in pending.items:
            self._resume(item)

    def _resume(self, item: object | None) -> None:
        self._waiting[item] -= 1
        if not self._waiting[item]:
            del self._waiting[item]

    def _fail_all(self, error: Exception) -> None:
        for pending in list(self._pending.values()):
            self._resolve(pending, error)

    def _discard(self, pending: _Pending) -> None:
        for requests in (self._pending, self._queued, self._deferred):
            requests.pop(pending.request.key, None)

    def _pending_of(self, batch: _Batch) -> list[_Pending]:
        return [pending for request in batch.requests.values() if (pending := self._pending.get(request.key))]


class _QueueFullError(Exception):
    """The server takes no further batch until another one has ended."""
