"""Live calls to OpenAI-compatible servers: shared among servers, paced, tried again where that can help."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiolimiter import AsyncLimiter
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from sage_dialog.llm.asker import Asker, Endpoint
from sage_dialog.llm.budget import Budget, Reservation
from sage_dialog.llm.journal import Journal
from sage_dialog.llm.limits import AdaptiveLimit
from sage_dialog.llm.requests import MAY_PASS, PAID_IN_VAIN, NoReplyError, Reason, RefusedError, Reply, Request

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

_POLL_S = 0.5  # how often a reply is looked for that another process asks for
_FIRST_WAIT_S, _MOST_WAIT_S = 0.5, 60.0  # between attempts: growing, and drawn at random up to as much
_MOST_ASKED_S = 600.0  # a server that asks to wait longer is asked again all the same
_TOO_LONG = ("context_length_exceeded", "string_above_max_length")
_FILTERED = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


class Client(Asker):
    """Asks by one call for each request.

    A reply that the journal has is never asked for; one that comes is in the journal before it is given out.
    """

    def __init__(self, endpoint: Endpoint, journal: Journal, budget: Budget, max_failed_share: float = 1.0) -> None:
        super().__init__(endpoint, journal, budget, max_failed_share)
        self._servers = [_Server(endpoint, url) for url in endpoint.base_urls]
        self._requests_a_minute = _pace(endpoint.requests_per_minute)
        self._tokens_a_minute = _pace(endpoint.tokens_per_minute)
        self._asked: dict[str, asyncio.Task[Reply]] = {}
        self._sent: dict[str, asyncio.Task[Reply]] = {}
        self._warned: set[Reason] = set()

    async def ask(self, request: Request) -> Reply:
        if reply := self.journal.reply_to(request):
            self.journal.note_hit(request)
            return reply
        task = self._asked.get(request.key)
        if task is None:  # the same request twice at once is one call
            task = asyncio.create_task(self._fetch(request))
            self._asked[request.key] = task
            task.add_done_callback(lambda _: self._asked.pop(request.key, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    async def drain(self) -> None:
        if self._sent:
            logger.info("waiting for %d replies that are on their way; they are kept", len(self._sent))
            await asyncio.gather(*self._sent.values(), return_exceptions=True)

    async def close(self) -> None:
        for server in self._servers:
            await server.close()

    async def _fetch(self, request: Request) -> Reply:
        while not await self.journal.claim(request):
            if reply := self.journal.reply_to(request):
                self.journal.note_hit(request)
                return reply
            await asyncio.sleep(_POLL_S)
        try:
            return await self._attempts(request)
        except BaseException:
            if request.key not in self._sent:  # else nobody waits any more, and the reply is still to come
                await self.journal.give_back(request)
            raise

    async def _attempts(self, request: Request) -> Reply:
        useless = 0

        def may_pass(error: BaseException) -> bool:
            nonlocal useless
            if isinstance(error, NoReplyError) and error.reason in PAID_IN_VAIN:
                useless += 1
                return useless < self.endpoint.useless_replies
            return isinstance(error, NoReplyError) and error.reason in MAY_PASS

        attempts = AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.attempts),
            retry=retry_if_exception(may_pass),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_MOST_WAIT_S),
            reraise=True,
        )
        return await attempts(self._call, request)

    async def _call(self, request: Request) -> Reply:
        if self._requests_a_minute:
            await self._requests_a_minute.acquire()
        if self._tokens_a_minute:
            await self._tokens_a_minute.acquire(min(_likely_tokens(request), self._tokens_a_minute.max_rate))
        server = min(self._servers, key=lambda server: (server.wait_s, server.limit.load))
        while server.wait_s > 0:
            await asyncio.sleep(server.wait_s)
        number = await server.limit.enter()
        try:
            reservation = await self.budget.reserve(request)
        except BaseException:
            server.limit.leave()
            raise
        # From here on the call is paid for: whoever waits may be cancelled, the call is not.
        task = asyncio.create_task(self._send(server, number, request, reservation))
        self._sent[request.key] = task
        task.add_done_callback(lambda _: self._sent.pop(request.key, None))
        return await asyncio.shield(task)

    async def _send(self, server: _Server, number: int, request: Request, reservation: Reservation) -> Reply:
        prompt_tokens = completion_tokens = 0
        cost = None
        try:
            answer = await server.answer(request)
            prompt_tokens, completion_tokens = _usage(answer, request)
            cost = self.budget.cost(request.model, prompt_tokens, completion_tokens)
            server.went_well()
            reply = read_answer(answer, prompt_tokens, completion_tokens)
        except NoReplyError as failure:
            if failure.reason in MAY_PASS:
                server.pushed_back(number, failure)
            self._warn(server, failure)
            await self.journal.note_failure(request, failure, prompt_tokens, completion_tokens, cost)
            raise
        finally:
            server.limit.leave()
            await self.budget.settle(reservation, prompt_tokens + completion_tokens, cost)
        await self.journal.keep(request, reply, cost)
        return reply

    def _warn(self, server: _Server, failure: NoReplyError) -> None:
        level = logging.DEBUG if failure.reason in self._warned else logging.WARNING
        self._warned.add(failure.reason)
        logger.log(level, "%s: %s (said once; the journal counts them)", server.place, failure)


class _Server:
    """One base URL."""

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self._key = endpoint.api_key.get_secret_value()
        self._url = url
        self._timeout = endpoint.timeout_s
        self._most = endpoint.concurrency
        self._client: openai.AsyncOpenAI | None = None
        self.limit = AdaptiveLimit(endpoint.concurrency)
        self._resumes_at = 0.0
        self._lost = 0

    @property
    def wait_s(self) -> float:
        """Seconds for which nothing is sent there."""
        return max(0.0, self._resumes_at - time.monotonic())

    def went_well(self) -> None:
        self._lost = 0
        self.limit.went_well()

    def pushed_back(self, number: int, failure: NoReplyError) -> None:
        """Fewer calls at once; and none for as long as it asks, or, where it does not answer, longer each time."""
        self.limit.pushed_back(number)
        wait_s = min(failure.wait_s or 0.0, _MOST_ASKED_S)
        if failure.reason is Reason.UNREACHABLE:
            self._lost += 1
            wait_s = min(_FIRST_WAIT_S * 2 ** min(self._lost, 10) / 4, _MOST_WAIT_S)
        self._resumes_at = max(self._resumes_at, time.monotonic() + wait_s)

    async def answer(self, request: Request) -> dict[str, Any]:
        """The server's answer to one call, as it came; nothing is tried again here."""
        import httpx2
        import openai

        began = time.monotonic()
        try:
            # A plain response: the SDK's model objects cost more than the call.
            response = await self._sdk().post("/chat/completions", cast_to=httpx2.Response, body=request.body())
            answer = json.loads(response.content)
        except openai.APITimeoutError as error:
            raise NoReplyError(Reason.TIMED_OUT, f"no answer within {self._timeout:g} s") from error
        except openai.APIConnectionError as error:
            raise NoReplyError(Reason.UNREACHABLE, self._said(error.__cause__ or error)) from error
        except openai.APIStatusError as error:
            raise self._status(error) from error
        except ValueError as error:
            raise NoReplyError(Reason.BROKEN, "its answer is no JSON") from error
        if not isinstance(answer, dict):
            raise NoReplyError(Reason.BROKEN, "its answer is no JSON object")
        return answer | {"seconds": time.monotonic() - began}

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _sdk(self) -> openai.AsyncOpenAI:
        if self._client is None:
            import httpx2
            import openai

            # Connections for all that may be on their way, and none that waits for another.
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self._most)
            self._client = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=self._url,
                max_retries=0,
                timeout=httpx2.Timeout(self._timeout, connect=min(10.0, self._timeout)),
                http_client=openai.DefaultAsyncHttpxClient(limits=limits),
            )
        return self._client

    def _status(self, error: openai.APIStatusError) -> NoReplyError | RefusedError:
        status, said, code = error.status_code, self._said(error), str(getattr(error, "code", None))
        if status == 400 and code in _TOO_LONG:
            return NoReplyError(Reason.TOO_LONG, said)
        if status == 400 and code in _FILTERED:
            return NoReplyError(Reason.FILTERED, said)
        if status == 429 and code != "insufficient_quota":
            return NoReplyError(Reason.BUSY, said, wait_s=_retry_after(error.response.headers))
        if status == 408:
            return NoReplyError(Reason.TIMED_OUT, said)
        if status in (409, 425) or status >= 500:
            return NoReplyError(Reason.BROKEN, said, wait_s=_retry_after(error.response.headers))
        hint = {401: " Look at the key.", 403: " Look at the key.", 404: " Look at base_urls and model."}.get(
            status, ""
        )
        return RefusedError(f"{self.place} refused the request ({status}): {said}.{hint}")

    @property
    def place(self) -> str:
        """The server's address without what may be secret in it."""
        from urllib.parse import urlsplit

        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def _said(self, error: BaseException) -> str:
        """What an error says, in one line, without the key, which a server may have repeated."""
        said = " ".join(str(error).split()) or type(error).__name__
        for secret in {self._key, self._key[:12], self._key[-8:]} if len(self._key) >= 16 else {self._key}:
            if len(secret) >= 6:
                said = said.replace(secret, "[key]")
        return said[:500]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, however it says so."""
    from email.utils import parsedate_to_datetime

    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        if (seconds := headers.get("retry-after")) is not None:
            try:
                return max(0.0, float(seconds))
            except ValueError:
                return max(0.0, parsedate_to_datetime(seconds).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
    return None


def read_answer(answer: Mapping[str, Any], prompt_tokens: int, completion_tokens: int) -> Reply:
    """The reply in a server's answer.

    Raises:
        NoReplyError: if it is cut, empty, filtered or refused, or not of the form that servers have agreed on.
    """
    try:
        choice = answer["choices"][0]
        message, finished = choice["message"], choice.get("finish_reason")
        text = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NoReplyError(Reason.BROKEN, "its answer holds no message") from error
    if not isinstance(text, str | None):
        raise NoReplyError(Reason.BROKEN, "its message is no text")
    if refusal := message.get("refusal"):
        raise NoReplyError(Reason.REFUSED, str(refusal)[:200], text)
    if finished == "content_filter":
        raise NoReplyError(Reason.FILTERED, "after the model spoke", text)
    if finished == "length":
        raise NoReplyError(Reason.TRUNCATED, f"after {completion_tokens} tokens", text)
    if text is None or not text.strip():
        raise NoReplyError(Reason.EMPTY, "", text)
    return Reply(text, prompt_tokens, completion_tokens, round(float(answer.get("seconds", 0.0)), 3))


def _usage(answer: Mapping[str, Any], request: Request) -> tuple[int, int]:
    """Tokens as the server counted them; at their most where it does not say."""
    usage = answer.get("usage")
    if isinstance(usage, Mapping):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            return prompt, completion
    return request.most_prompt_tokens, request.most_completion_tokens or 0


def _likely_tokens(request: Request) -> float:
    """Four bytes a token, and half of what the reply may have: for pacing only."""
    return request.most_prompt_tokens / 4 + (request.most_completion_tokens or 0) / 2


def _pace(a_minute: float | None) -> AsyncLimiter | None:
    """At most so many in any minute, evenly: a tenth of a minute's at once."""
    return AsyncLimiter(max(1.0, a_minute / 10), 6.0) if a_minute else None
