"""`LLMClient`: sends requests to one endpoint; the base of the live client and of the batch client."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import defaultdict
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

_FIRST_ROWS = 50  # more than half of them failing ends the run
_FIRST_REPLIES = 20  # after which the estimate is corrected

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
        self._estimated_calls: dict[str, int] = {}  # by role, until the estimate is corrected
        self._first_replies: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)

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
        self.check_caps(role)
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
        self._estimated_calls[role] = calls
        self._warn_of_caps(role, {"calls": calls, "tokens": prompt_tokens + completion_tokens, "money": cost})

    def correct_estimate(self, role: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Log an estimate from the first replies of a role, once enough of them have come."""
        calls = self._estimated_calls.get(role)
        if calls is None or calls < 2 * _FIRST_REPLIES:
            return
        replies = self._first_replies[role]
        replies.append((prompt_tokens, completion_tokens))
        if len(replies) < _FIRST_REPLIES:
            return
        del self._estimated_calls[role]
        prompt, completion = (round(calls * sum(counts) / len(replies)) for counts in zip(*replies, strict=True))
        cost = self.budget.cost(self.endpoint.model, prompt, completion, batch=self.batched)
        logger.info(
            "%s: as the first %d replies go, %s calls take about %s prompt tokens and %s response tokens%s",
            *(role, len(replies), f"{calls:,}", f"{prompt:,}", f"{completion:,}"),
            "" if cost is None else f", about {cost:,.2f} by llm.prices",
        )
        self._warn_of_caps(role, {"tokens": prompt + completion, "money": cost})

    def check_caps(self, role: str) -> None:
        """Raise ValueError if a cap on the role's calls cannot be enforced (`Budget.check_caps`)."""
        self.budget.check_caps(role, self.endpoint.model, self.max_completion_tokens)

    def _warn_of_caps(self, role: str, amounts: Mapping[str, float | None]) -> None:
        for kind, amount in amounts.items():
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
    first_finished: int = 0
    first_failed: int = 0

    def add(self, reason: str, row: int | None = None) -> None:
        """Count a failed row. Raises TooManyFailuresError as soon as the limit is exceeded."""
        self.failed += 1
        if self.failed > self.max_share * self.number:
            of_row = "" if row is None else f" (number {row + 1} of the {self.rows})"
            raise TooManyFailuresError(
                f"{self.failed} of {self.number} {self.rows} failed, more than llm.max_failed_share = "
                f"{self.max_share:g} allows. The last reason{of_row}: {reason}. All responses are in the response "
                "cache: fix the cause and run the same command again, or raise the limit."
            )

    def finish(self, failure: str | None) -> None:
        """Count a row in the order in which rows finish, which stops a setup that cannot work before it costs much.

        Args:
            failure: the reason if the row failed.

        Raises:
            TooManyFailuresError: if more than half of the first rows failed.
        """
        if self.number <= _FIRST_ROWS or self.first_finished >= _FIRST_ROWS:
            return
        self.first_finished += 1
        self.first_failed += failure is not None
        if self.first_failed > max(0.5, self.max_share) * _FIRST_ROWS:
            raise TooManyFailuresError(
                f"{self.first_failed} of the first {self.first_finished} {self.rows} failed. The last reason: "
                f"{failure}. All responses are in the response cache: fix the cause and run the same command again; "
                "llm.max_failed_share = 1 accepts any number of failures."
            )
