"""`LLMClient`: sends requests to one endpoint; the base of the live client and of the batch client."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import (
    ChatRequest,
    LLMResponse,
    Request,
    RequestRejectedError,
    TooManyFailuresError,
    completion_limit,
)
from sage_dialog.llm.response_cache import ResponseCache

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class LLMClient(ABC):
    """Sends requests to one endpoint through the response cache and the budget, in the loop of `event_loop`."""

    max_pending = 4096
    """Limit on items that `map` has started and not yet yielded."""

    batched = False
    """Whether requests are sent and billed as batches."""

    def __init__(
        self, endpoint: Endpoint, response_cache: ResponseCache, budget: Budget, max_failed_share: float = 1.0
    ) -> None:
        self.endpoint = endpoint
        self.response_cache = response_cache
        self.budget = budget
        self.max_failed_share = max_failed_share

    @abstractmethod
    async def request(self, request: Request) -> LLMResponse:
        """Return the response to a request, from the response cache if it is there.

        Raises:
            RequestFailedError: if all attempts fail.
            RequestRejectedError: if the server permanently rejects the request.
            CapReachedError: if the call may exceed a cap.
        """

    @abstractmethod
    async def drain(self) -> None:
        """Wait for the calls in flight and save their responses."""

    def chat_request(
        self,
        role: str,
        messages: Iterable[Mapping[str, str]],
        schema: Mapping[str, Any] | None = None,
        sample: int = 0,
    ) -> ChatRequest:
        """Return a chat request to this endpoint. The schema is sent if the servers enforce it."""
        own_schema = schema if self.endpoint.json_schema else None
        return ChatRequest(role, self.endpoint.model, tuple(messages), self.endpoint.sampling, own_schema, sample)

    def map(self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the function's result for each item, in order, with many concurrent calls.

        After an error no further call is sent; responses to the calls in flight are awaited and saved.
        """
        return loop.map_ordered(function, items, self.max_pending, self.drain)

    @property
    def max_completion_tokens(self) -> int | None:
        """The limit on tokens of a response in the endpoint's sampling."""
        return completion_limit(self.endpoint.sampling)

    def log_estimate(self, requests: Iterable[Request], max_calls: int | None = None) -> None:
        """Log the number of calls to come, their tokens and their cost.

        Args:
            requests: the requests to come; cached ones cost nothing.
            max_calls: upper bound on the calls, if `requests` are only examples of them.

        Raises:
            ValueError: if a cap cannot be enforced (`Budget.check_caps`).
        """
        role, number, cached, prompt, completion = "", 0, 0, 0.0, 0
        for request in requests:
            role, number = request.role, number + 1
            if request in self.response_cache:
                cached += 1
            else:
                prompt += request.max_prompt_tokens / 4  # an English token has about four bytes
                completion += request.max_completion_tokens or 0
        if not number:
            return
        model = self.endpoint.model
        self.budget.check_caps(role, model, self.max_completion_tokens)
        scale = 1.0 if max_calls is None else max_calls / number
        calls, prompt_tokens, completion_tokens = (
            round(amount * scale) for amount in (number - cached, prompt, completion)
        )
        cost = self.budget.cost(model, prompt_tokens, completion_tokens, batch=self.batched)
        logger.info(
            "%s: %s%s calls to %s, about %s prompt tokens, at most %s response tokens%s; %s more are cached",
            *(role, "at most " if max_calls else "", f"{calls:,}", model, f"{prompt_tokens:,}"),
            *(f"{completion_tokens:,}", "" if cost is None else f", at most about {cost:,.2f} by llm.prices"),
            f"{round(cached * scale):,}",
        )
        for kind, amount in {"calls": calls, "tokens": prompt_tokens + completion_tokens, "money": cost}.items():
            remaining = self.budget.remaining(role, kind)
            if remaining is not None and amount is not None and amount > remaining:
                logger.warning(
                    "%s: this may take %s %s, and the caps leave %s; a stopped run continues by the same command",
                    *(role, f"{amount:,.6g}", kind, f"{remaining:,.6g}"),
                )

    async def check_orphaned_batches(self, requests: Sequence[Request], collects: str = "") -> None:
        """Raise RequestRejectedError if a request is in a batch of an earlier run that this run does not collect.

        Args:
            collects: the server whose batches of this model this client collects itself.
        """
        for batch in await self.response_cache.orphaned_batches(requests):
            if batch["server"] != collects:
                raise RequestRejectedError(
                    f"An earlier run put this into a batch ({batch['id'] or 'no id yet'}) of {batch['model']} at "
                    f"{batch['server']}, which is paid for and not collected. Run once with that server and `mode: "
                    "batch`; `kedro sage cache` lists the open batches."
                )


@dataclass
class FailureCounter:
    """Counts failed rows, and stops the run when more than a share of all rows must fail."""

    rows: str
    number: int
    max_share: float
    failed: int = 0

    def add(self, reason: str) -> None:
        """Count a failed row. Raises TooManyFailuresError as soon as the limit is exceeded."""
        self.failed += 1
        if self.failed > self.max_share * self.number:
            raise TooManyFailuresError(
                f"{self.failed} of {self.number} {self.rows} failed, more than llm.max_failed_share = "
                f"{self.max_share:g} allows. The last reason: {reason}. All responses are in the response cache: fix "
                "the cause and run the same command again, or raise the limit."
            )
