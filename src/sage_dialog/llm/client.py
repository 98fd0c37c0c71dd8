"""`LLMClient`: how roles request replies from a language model, one by one (live) or in batches."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import ChatRequest, LLMResponse, Request, RequestRejectedError, TooManyFailuresError
from sage_dialog.llm.response_cache import ResponseCache

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class LLMClient(ABC):
    """Asks one endpoint. All that is asynchronous here runs in the loop of `loop`."""

    max_pending = 4096
    """Items begun and not yet given out at most."""

    def __init__(
        self, endpoint: Endpoint, response_cache: ResponseCache, budget: Budget, max_failed_share: float = 1.0
    ) -> None:
        self.endpoint = endpoint
        self.response_cache = response_cache
        self.budget = budget
        self.max_failed_share = max_failed_share

    @abstractmethod
    async def request(self, request: Request) -> LLMResponse:
        """The reply to a request, from the response cache where it is there.

        Raises:
            RequestFailedError: if there is none after all attempts.
            RequestRejectedError: if the server would never give one.
            CapReachedError: if the call would go over a cap.
        """

    @abstractmethod
    async def drain(self) -> None:
        """Waits for the calls that are on their way, and keeps what they bring."""

    def chat_request(
        self,
        role: str,
        messages: Iterable[Mapping[str, str]],
        schema: Mapping[str, Any] | None = None,
        sample: int = 0,
    ) -> ChatRequest:
        """A request to this endpoint, as it is configured; the schema is sent where its servers keep to one."""
        return ChatRequest(
            role,
            self.endpoint.model,
            tuple(messages),
            self.endpoint.sampling,
            schema if self.endpoint.json_schema else None,
            sample,
        )

    def map(self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """The function's result for each item, in their order, while many are under way.

        After an error nothing more is sent; what is on its way is waited for and kept.
        """
        return loop.map_ordered(function, items, self.max_pending, self.drain)

    def log_estimate(self, requests: Iterable[Request], calls: int | None = None) -> None:
        """Says before the first call how many there will be, how many tokens, and what they may cost.

        Args:
            requests: what will be asked; those that the response cache answers cost nothing.
            calls: how many calls there may be at most, where the requests are but examples of them.

        Raises:
            ValueError: if a cap is set that cannot be kept (`Budget.check_caps`).
        """
        role, number, known, prompt, completion = "", 0, 0, 0.0, 0
        for request in requests:
            role, number = request.role, number + 1
            if self.response_cache.get(request) is not None:
                known += 1
            else:
                prompt += request.max_prompt_tokens / 4  # four bytes a token, as in English
                completion += request.max_completion_tokens or 0
        if not number:
            return
        self.budget.check_caps(role, self.endpoint.model, self.max_completion_tokens)
        scale = 1.0 if calls is None else calls / number
        new = round((number - known) * scale)
        prompt_tokens, completion_tokens = round(prompt * scale), round(completion * scale)
        cost = self.budget.cost(self.endpoint.model, prompt_tokens, completion_tokens, batch=self.batched)
        logger.info(
            "%s: %s calls to %s, about %s tokens of prompts, replies of at most %s tokens%s; the response cache has %s more",
            *(role, f"{'at most ' if calls else ''}{new:,}", self.endpoint.model, f"{prompt_tokens:,}"),
            *(f"{completion_tokens:,}", "" if cost is None else f", at most about {cost:,.2f} by llm.prices"),
            f"{round(known * scale):,}",
        )
        needed = {"calls": new, "tokens": prompt_tokens + completion_tokens, "money": cost}
        for kind, amount in needed.items():
            room = self.budget.remaining(role, kind)
            if room is not None and amount is not None and amount > room:
                logger.warning(
                    "%s: this may take %s %s, and the caps leave %s; the run may end there and go on when started anew",
                    *(role, f"{amount:,.6g}", kind, f"{room:,.6g}"),
                )

    batched = False

    @property
    def max_completion_tokens(self) -> int | None:
        """Tokens of a reply at most, as the endpoint's sampling says."""
        return self.endpoint.sampling.get("max_completion_tokens", self.endpoint.sampling.get("max_tokens"))

    async def check_orphaned_batches(self, requests: Sequence[Request], collects: str = "") -> None:
        """Sees that nobody waits for a batch that nobody collects.

        Args:
            collects: the server whose batches of this model this client collects itself.

        Raises:
            RequestRejectedError: if one of the requests is in such a batch of an earlier run.
        """
        for batch in await self.response_cache.orphaned_batches(requests):
            if batch["server"] != collects:
                raise RequestRejectedError(
                    f"An earlier run put this into a batch ({batch['id'] or 'no id yet'}) of {batch['model']} at "
                    f"{batch['server']}, and nobody has collected it. It is paid for: ask that server with `mode: "
                    "batch` once; `kedro sage cache` lists the batches that are out."
                )

    def failure_counter(self, what: str, number: int) -> FailureCounter:
        """Counts the rows of a table that fail; more than the parameters allow stop the run."""
        return FailureCounter(what, number, self.max_failed_share)


class FailureCounter:
    """How many of a table's rows failed so far, and why."""

    def __init__(self, what: str, rows: int, share: float) -> None:
        self._what = what
        self._rows = rows
        self._share = share
        self._failed = 0

    def add(self, why: str) -> None:
        """One more. Raises TooManyFailuresError as soon as it is certain that too many of all rows fail."""
        self._failed += 1
        if self._failed > self._share * self._rows:
            raise TooManyFailuresError(
                f"{self._failed} of {self._rows} {self._what} failed, more than llm.max_failed_share = {self._share:g} "
                f"allows. The last one: {why}. Every reply is in the response cache: mend the cause and run the same command "
                "again, or raise the limit."
            )
