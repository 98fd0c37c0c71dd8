"""What roles use to ask a language model, whether its replies come one by one or in batches."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.requests import ChatRequest, RefusedError, Reply, Request, TooManyFailuresError
from sage_dialog.llm.response_cache import ResponseCache

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class Endpoint(BaseModel):
    """A model and the servers that have it, as `conf/*/catalog_roles.yml` states them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_urls: tuple[str, ...] = Field(
        min_length=1, description="each as the SDK takes it, with /v1; all share the load"
    )
    model: str = Field(min_length=1, description="the name that the servers know; with it replies are kept")
    api_key: SecretStr = Field(SecretStr("none"), description="by `credentials:`; servers without keys take any")
    concurrency: int = Field(16, ge=1, description="calls on their way to each server at most")
    requests_per_minute: float | None = Field(None, gt=0, description="to all servers together")
    tokens_per_minute: float | None = Field(None, gt=0, description="of prompts and replies, to all servers together")
    timeout_s: float = Field(600, gt=0, description="seconds until a call without an answer is given up")
    attempts: int = Field(10, ge=1, description="how often a call is sent that fails in a way that may pass")
    max_invalid_responses: int = Field(3, ge=1, description="how often a reply may be cut, empty, filtered or refused")
    json_schema: bool = Field(True, description="the servers keep to a JSON schema; else it is asked for in words")
    sampling: Mapping[str, Any] = Field({}, description="fields of the request's body: temperature, max_tokens, …")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr) -> SecretStr:
        if not all("!" <= letter <= "~" for letter in key.get_secret_value().strip()):
            raise ValueError("holds spaces or letters that no key has; look at the environment variable it comes from")
        return SecretStr(key.get_secret_value().strip())


class LLMClient(ABC):
    """Asks one endpoint. All that is asynchronous here runs in the loop of `loop`."""

    at_once = 4096
    """Items begun and not yet given out at most."""

    def __init__(
        self, endpoint: Endpoint, response_cache: ResponseCache, budget: Budget, max_failed_share: float = 1.0
    ) -> None:
        self.endpoint = endpoint
        self.response_cache = response_cache
        self.budget = budget
        self.max_failed_share = max_failed_share

    @abstractmethod
    async def ask(self, request: Request) -> Reply:
        """The reply to a request, from the response cache where it is there.

        Raises:
            NoReplyError: if there is none after all attempts.
            RefusedError: if the server would never give one.
            CapReachedError: if the call would go over a cap.
        """

    @abstractmethod
    async def drain(self) -> None:
        """Waits for the calls that are on their way, and keeps what they bring."""

    def request(
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

    def in_order(self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]) -> Iterator[Result]:
        """The function's result for each item, in their order, while many are under way.

        After an error nothing more is sent; what is on its way is waited for and kept.
        """
        return loop.in_order(function, items, self.at_once, self.drain)

    def announce(self, requests: Iterable[Request], calls: int | None = None) -> None:
        """Says before the first call how many there will be, how many tokens, and what they may cost.

        Args:
            requests: what will be asked; those that the response cache answers cost nothing.
            calls: how many calls there may be at most, where the requests are but examples of them.

        Raises:
            ValueError: if a cap is set that cannot be kept (`Budget.check`).
        """
        role, number, known, prompt, completion = "", 0, 0, 0.0, 0
        for request in requests:
            role, number = request.role, number + 1
            if self.response_cache.reply_to(request) is not None:
                known += 1
            else:
                prompt += request.most_prompt_tokens / 4  # four bytes a token, as in English
                completion += request.most_completion_tokens or 0
        if not number:
            return
        self.budget.check(role, self.endpoint.model, self.endpoint_limit)
        scale = 1.0 if calls is None else calls / number
        new = round((number - known) * scale)
        prompt_tokens, completion_tokens = round(prompt * scale), round(completion * scale)
        cost = self.budget.cost(self.endpoint.model, prompt_tokens, completion_tokens, half=self.in_batches)
        logger.info(
            "%s: %s calls to %s, about %s tokens of prompts, replies of at most %s tokens%s; the response cache has %s more",
            *(role, f"{'at most ' if calls else ''}{new:,}", self.endpoint.model, f"{prompt_tokens:,}"),
            *(f"{completion_tokens:,}", "" if cost is None else f", at most about {cost:,.2f} by llm.prices"),
            f"{round(known * scale):,}",
        )
        needed = {"calls": new, "tokens": prompt_tokens + completion_tokens, "money": cost}
        for kind, amount in needed.items():
            room = self.budget.room(role, kind)
            if room is not None and amount is not None and amount > room:
                logger.warning(
                    "%s: this may take %s %s, and the caps leave %s; the run may end there and go on when started anew",
                    *(role, f"{amount:,.6g}", kind, f"{room:,.6g}"),
                )

    in_batches = False

    @property
    def endpoint_limit(self) -> int | None:
        """Tokens of a reply at most, as the endpoint's sampling says."""
        return self.endpoint.sampling.get("max_completion_tokens", self.endpoint.sampling.get("max_tokens"))

    async def refuse_left_behind(self, requests: Sequence[Request], collects: str = "") -> None:
        """Sees that nobody waits for a batch that nobody collects.

        Args:
            collects: the server whose batches of this model this client collects itself.

        Raises:
            RefusedError: if one of the requests is in such a batch of an earlier run.
        """
        for batch in await self.response_cache.left_behind(requests):
            if batch["server"] != collects:
                raise RefusedError(
                    f"An earlier run put this into a batch ({batch['id'] or 'no id yet'}) of {batch['model']} at "
                    f"{batch['server']}, and nobody has collected it. It is paid for: ask that server with `mode: "
                    "batch` once; `kedro sage response_cache` lists the batches that are out."
                )

    def rows(self, what: str, number: int) -> FailedRows:
        """Counts the rows of a table that fail; more than the parameters allow stop the run."""
        return FailedRows(what, number, self.max_failed_share)


class FailedRows:
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
