"""Replies by a hosted batch API (`/v1/files`, `/v1/batches`): within a day, at a share of the price.

A batch that was created is paid for, whatever becomes of the process that did it. So the response cache knows its requests
before the server does, and the server knows it by the response_cache's name for it (its metadata): a run that follows finds
the batch, collects it, and asks only for what it did not bring.

Not covered: a call that creates a batch, is on its way while its process is killed, and reaches the server only after
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
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from sage_dialog.llm.batch_api import ENDED, BatchApi, line_of, queue_is_full
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
from sage_dialog.llm.server import Server, attempts, usage_of

if TYPE_CHECKING:
    from openai.types import Batch

logger = logging.getLogger(__name__)

_PATIENCE_S = 600.0  # for items that neither ask nor end: a batch is held up no longer

_item: ContextVar[object | None] = ContextVar("item", default=None)


class BatchSettings(BaseModel):
    """How batches are made, as `conf/*/catalog_roles.yml` states it. The defaults are the limits of the OpenAI API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poll_s: float = Field(60, gt=0, description="seconds between two looks at a batch")
    most_requests: int = Field(50_000, ge=1, description="requests of one batch, and items under way at once")
    most_bytes: int = Field(200_000_000, ge=1, description="bytes of one batch's file")
    completion_window: str = Field("24h", description="in which the server does what it can; what is left expires")
    rounds: int = Field(3, ge=1, description="batches that a request may be put into by one run")


@dataclass
class _Asked:
    """A request without a reply yet, and the items that wait for it."""

    request: Request
    reply: asyncio.Future[LLMResponse]
    waiting: list[object | None] = field(default_factory=list)
    rounds: int = 0
    useless: int = 0


@dataclass
class _Stream:
    """How many items one `in_order` has taken, in its thread, and how many of them have ended, in the loop's."""

    taken: int = 0
    ended: int = 0


@dataclass
class _Batch:
    """A batch that this process sees through. Without an id, the server may or may not have it."""

    name: str
    requests: dict[str, Request]  # by custom id
    id: str | None = None
    reservations: dict[str, Reservation] = field(default_factory=dict)
    alone: bool = True  # no other of this client's was out when it was submitted
    sending: asyncio.Task[None] | None = None
    seeing_through: asyncio.Task[None] | None = None


class BatchClient(LLMClient):
    """Asks in batches: one is submitted when no item under way can go on without a reply, or when it is full.

    Requests that come up later, such as those that show a model its error, so become the next batch. Several batches
    may be out at once. An item is to wait for nothing but `ask`; one that does holds its batch up for ten minutes.
    The endpoint's concurrency and pace are for live calls; they do not matter here.

    Where a cap leaves room for some of the requests only, these are submitted, and the others wait: what the batch
    really took may leave room for more of them. `CapReachedError` comes when all that is out is collected.

    Raises:
        ValueError: if the endpoint has several base URLs; a batch is one server's.
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
            raise ValueError(f"a batch is one server's, but base_urls has {len(endpoint.base_urls)}; name one.")
        self.settings = settings or BatchSettings()
        self.max_pending = self.settings.most_requests
        self._server = Server(endpoint, endpoint.base_urls[0])
        self._api = BatchApi(self._server, self.settings.completion_window)
        self._streams: list[_Stream] = []
        self._waiting: Counter[object] = Counter()  # items, each with how many replies it waits for
        self._asked: dict[str, _Asked] = {}
        self._gathered: dict[str, _Asked] = {}  # of these, what the next batch is to have
        self._held: dict[str, _Asked] = {}  # and what there is no room for until a batch is collected
        self._out: dict[str, _Batch] = {}
        self._submitting: asyncio.Task[None] | None = None
        self._looking = False
        self._patience: asyncio.TimerHandle | None = None

    def map(self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        stream = _Stream()

        def taken() -> Iterator[Item]:
            for item in items:
                stream.taken += 1
                yield item

        async def counted(item: Item) -> Result:
            _item.set(object())  # seen by all that is awaited from here
            try:
                return await function(item)
            finally:
                stream.ended += 1
                self._look_soon()

        self._streams.append(stream)
        try:
            yield from super().map(counted, taken())
        finally:
            self._streams.remove(stream)

    async def request(self, request: Request) -> LLMResponse:
        if reply := self.response_cache.get(request):
            self.response_cache.count_hit(request)
            return reply
        asked = self._asked.get(request.key)
        if asked is None:
            asked = self._asked[request.key] = _Asked(request, asyncio.get_running_loop().create_future())
            self._gather([asked])
        item = _item.get()
        asked.waiting.append(item)
        self._waiting[item] += 1
        self._look_soon()
        try:
            return await asyncio.shield(asked.reply)
        finally:
            if not asked.reply.done():
                asked.waiting.remove(item)
                self._goes_on(item)
                if not asked.waiting:  # nobody wants it any more
                    self._dismiss(asked)

    async def drain(self) -> None:
        """Waits until what is being submitted is known to the server; batches are left for the next run to collect."""
        if self._submitting is not None:
            await asyncio.wait([self._submitting])
        if sending := [batch.sending for batch in self._out.values() if batch.sending is not None]:
            await asyncio.wait(sending)
        if out := [batch.seeing_through for batch in self._out.values() if batch.seeing_through is not None]:
            logger.info("%d batches stay out at %s; the same command collects them", len(out), self._server.address)
            for task in out:
                task.cancel()
            await asyncio.wait(out)

    async def close(self) -> None:
        await self.drain()
        await self._server.close()

    # Gathering

    def _gather(self, asked: Iterable[_Asked]) -> None:
        for one in asked:
            if self._asked.get(one.request.key) is one:
                self._gathered[one.request.key] = one
        if self._gathered and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._submit_soon)
        self._look_soon()

    def _look_soon(self) -> None:
        """After all that is ready to run has run, so that what is asked together is heard together."""
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looking = False
        under_way = sum(stream.taken - stream.ended for stream in tuple(self._streams))
        waiting = len(self._waiting) - (None in self._waiting)  # None: asked for outside of `in_order`
        if self._gathered and (waiting >= under_way or len(self._gathered) >= self.settings.most_requests):
            self._submit_soon()

    def _submit_soon(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._submitting is None or self._submitting.done():
            self._submitting = asyncio.create_task(self._submit())

    async def _submit(self) -> None:
        try:
            for name, batch_id, requests in await self.response_cache.adopt_batches(
                self._server.address, self.endpoint.model
            ):
                logger.info("batch %s of an earlier run is taken over: %d requests", batch_id or name, len(requests))
                self._see_through(_Batch(name, requests, batch_id))
            for batch in self._out.values():
                for request in batch.requests.values():
                    self._gathered.pop(request.key, None)  # its reply comes with that batch
            while self._gathered:
                await self._make_batch()
        except Exception as error:
            self._give_all(error)
        finally:
            self._gather(())

    async def _make_batch(self) -> None:
        """Of what is gathered, as much as goes into one, may be asked here and now, and is within the caps."""
        chosen: list[_Asked] = []
        lines: dict[str, bytes] = {}
        size = 0
        for key, asked in self._gathered.items():
            line = line_of(asked.request)
            if chosen and (len(chosen) >= self.settings.most_requests or size + len(line) > self.settings.most_bytes):
                break
            chosen.append(asked)
            lines[key] = line
            size += len(line)
        for asked in chosen:
            del self._gathered[asked.request.key]
        name = uuid.uuid4().hex  # not its content's: the same may be asked again, after it expired
        opened = await self.response_cache.open_batch(
            name, self._server.address, self.endpoint.model, [asked.request for asked in chosen]
        )
        batch = _Batch(name, {request.key: request for request in opened})
        try:
            await self._wait_for_others([asked for asked in chosen if asked.request.key not in batch.requests])
            await self._reserve(batch)
        except Exception:
            await self.response_cache.forget_batch(name)
            raise
        if batch.requests:
            self._see_through(batch, b"".join(lines[key] for key in batch.requests))

    async def _reserve(self, batch: _Batch) -> None:
        """Takes out of a batch what the caps leave no room for."""
        for key, request in batch.requests.items():
            if key not in self._asked:
                continue
            reservation = self.budget.try_reserve(request, batch=True)
            if reservation is None and not batch.reservations and not self._out:
                # Nothing of this client's is out that could make room; of another's there may be.
                reservation = await self.budget.reserve(request, batch=True)
            if reservation is None:
                break
            batch.reservations[key] = reservation
        training_rejects = [key for key in batch.requests if key not in batch.reservations]
        for key in training_rejects:
            del batch.requests[key]
        if training_rejects:
            await self.response_cache.leave_out(batch.name, training_rejects)
        still = {key: self._asked[key] for key in training_rejects if key in self._asked}
        if batch.requests or self._out:
            self._held.update(still)
        else:  # what was in the way has just been collected
            self._gather(still.values())

    async def _wait_for_others(self, elsewhere: Sequence[_Asked]) -> None:
        """Requests that another asks, live or in a batch of its own, are looked at again with the next poll."""
        waiting = []
        for asked in elsewhere:
            if self._asked.get(asked.request.key) is not asked:
                continue
            if reply := self.response_cache.get(asked.request):
                self.response_cache.count_hit(asked.request)
                self._give(asked, reply)
            else:
                waiting.append(asked)
        if waiting:
            await self.check_orphaned_batches([asked.request for asked in waiting], collects=self._server.address)
            asyncio.get_running_loop().call_later(self.settings.poll_s, self._gather, waiting)

    # One batch

    def _see_through(self, batch: _Batch, content: bytes | None = None) -> None:
        batch.alone = not self._out
        self._out[batch.name] = batch
        if batch.id is None:
            batch.sending = asyncio.create_task(self._send(batch, content))
        batch.seeing_through = asyncio.create_task(self._seen_through(batch))

    async def _seen_through(self, batch: _Batch) -> None:
        """From its submission until its replies are in the response cache and with those who wait."""
        there_is_room = True
        try:
            if batch.sending is not None:
                await asyncio.shield(batch.sending)
            if batch.id is not None:
                await self._collect(batch, *await self._ended(batch))
        except _QueueFullError:
            there_is_room = False
        except Exception as error:
            if isinstance(error, RequestFailedError):  # of the batch, not of a request
                error = RequestRejectedError(
                    f"{self._server.address}: {error}. What the batch brings is not lost: the same command goes on."
                )
            if self._asked_of(batch):
                self._give_all(error)  # nothing more is sent
            else:
                logger.warning("batch %s, which nobody waits for here: %s", batch.id or batch.name, error)
        finally:
            del self._out[batch.name]
            for reservation in batch.reservations.values():
                await self.budget.settle(reservation, 0, None)
            await self.response_cache.let_go(batch.name)
            # What it did not bring is asked again, and there may be room for more now.
            self._held.update({asked.request.key: asked for asked in self._asked_of(batch)})
            if there_is_room or not self._out:
                held, self._held = self._held, {}
                self._gather(held.values())

    async def _send(self, batch: _Batch, content: bytes | None) -> None:
        """Has the server begin the batch, once; or, of an earlier run's, learns whether it did."""
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
            # Not by the SDK's retries: what it takes for failed may have been done.
            async for attempt in attempts(self.endpoint.attempts, lambda error: isinstance(error, RequestFailedError)):
                with attempt:
                    tries += 1
                    batch.id = await self._api.begin(batch.name, file_id, again=tries > 1)
        except (RequestFailedError, RequestRejectedError) as error:
            if not tries or (
                tries == 1 and isinstance(error, RequestRejectedError)
            ):  # the server surely does not have it
                await self.response_cache.forget_batch(batch.name)
            raise
        assert batch.id is not None
        await self.response_cache.mark_submitted(batch.name, batch.id)
        logger.info(
            "batch %s: %d requests are with %s; if this run ends, the same command collects it",
            *(batch.id, len(batch.requests), self._server.address),
        )

    async def _ended(self, batch: _Batch) -> tuple[Batch, list[bytes]]:
        """The batch when the server is done with it, and the lines of its files."""
        from tqdm import tqdm

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
                    logger.warning("batch %s: %s; it is looked at again", batch.id, failure)
                await asyncio.sleep(self.settings.poll_s)

    async def _collect(self, batch: _Batch, state: Batch, lines: Sequence[bytes]) -> None:
        """Into the response cache, all in one commit, and only then to those who wait, all at once."""
        if state.status == "failed":
            await self.response_cache.forget_batch(batch.name)
            if queue_is_full(state) and not batch.alone:
                raise _QueueFullError
            raise self._api.refusal(state)
        answers = self._api.read(batch.id, batch.requests, lines)
        outcomes: dict[str, LLMResponse | RequestFailedError] = {}
        refused: RequestRejectedError | None = None
        kept, failed = [], []
        for key, request in batch.requests.items():
            prompt_tokens = completion_tokens = 0
            cost = None
            try:
                body = self._api.answer(state, answers.get(key))
                self.budget.record_model(request.role, body)
                prompt_tokens, completion_tokens = usage_of(body, request)
                cost = self.budget.cost(request.model, prompt_tokens, completion_tokens, batch=True)
                reply = outcomes[request.key] = request.read(body, prompt_tokens, completion_tokens)
                kept.append((request, reply, cost))
            except RequestFailedError as failure:
                outcomes[request.key] = failure
                failed.append((request, failure, prompt_tokens, completion_tokens, cost))
            except RequestRejectedError as refusal:
                refused = refusal
            if reservation := batch.reservations.pop(key, None):
                await self.budget.settle(reservation, prompt_tokens + completion_tokens, cost)
        await self.response_cache.collect_batch(batch.name, kept, failed)
        reasons = Counter(failure.reason.value for _, failure, *_ in failed)
        logger.log(
            logging.WARNING if len(kept) < len(batch.requests) else logging.INFO,
            "batch %s is %s: %d replies of %d%s",
            *(batch.id, state.status, len(kept), len(batch.requests)),
            "".join(f"; {reason}: {number}" for reason, number in reasons.most_common()),
        )
        for asked in self._asked_of(batch):
            if outcome := outcomes.get(asked.request.key):
                self._give(asked, outcome)
        if refused is not None:
            raise refused

    # Those who wait

    def _give(self, asked: _Asked, outcome: LLMResponse | Exception) -> None:
        """To those who wait, unless it is to be asked again."""
        if isinstance(outcome, RequestFailedError):
            asked.rounds += 1
            asked.useless += outcome.reason in UNUSABLE_RESPONSES
            again = outcome.reason in (*RETRYABLE, *UNUSABLE_RESPONSES, FailureReason.EXPIRED)
            if again and asked.rounds < self.settings.rounds and asked.useless < self.endpoint.max_invalid_responses:
                return
        self._dismiss(asked)
        if isinstance(outcome, LLMResponse):
            asked.reply.set_result(outcome)
        elif asked.waiting:
            asked.reply.set_exception(outcome)
        for item in asked.waiting:
            self._goes_on(item)

    def _goes_on(self, item: object | None) -> None:
        self._waiting[item] -= 1
        if not self._waiting[item]:
            del self._waiting[item]

    def _give_all(self, error: Exception) -> None:
        for asked in list(self._asked.values()):
            self._give(asked, error)

    def _dismiss(self, asked: _Asked) -> None:
        for where in (self._asked, self._gathered, self._held):
            where.pop(asked.request.key, None)

    def _asked_of(self, batch: _Batch) -> list[_Asked]:
        return [asked for request in batch.requests.values() if (asked := self._asked.get(request.key))]


class _QueueFullError(Exception):
    """The server takes no further batch until another is done."""
