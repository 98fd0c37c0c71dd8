"""One OpenAI-compatible server: how it is reached, and what its answers and its errors come to."""

from __future__ import annotations

import atexit
import errno
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.request import getproxies

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import (
    OVERLOADED,
    RETRYABLE,
    FailureReason,
    PutTogether,
    Request,
    RequestFailedError,
    RequestRejectedError,
    remove_surrogates,
)
from sage_dialog.llm.server_pool import AdaptiveLimit

if TYPE_CHECKING:
    import openai

_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 60.0  # between attempts: growing, and drawn at random up to as much
_BROKEN_OFF = (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE)  # by which aiohttp means a connection that was there
_MOST_ASKED_S = 600.0  # a server that asks to wait longer is asked again all the same
_TOO_LONG = (  # OpenAI, vLLM, llama.cpp
    *("context_length_exceeded", "string_above_max_length", "maximum context length", "maximum model length"),
    "available context size",
)
_FILTERED = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")


def attempts(number: int, may_pass: Callable[[BaseException], bool]) -> AsyncRetrying:
    """Tries so many times, while what went wrong may pass, with growing waits drawn at random."""
    return AsyncRetrying(
        stop=stop_after_attempt(number),
        retry=retry_if_exception(may_pass),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_MAX_WAIT_S),
        reraise=True,
    )


def served_model(endpoint: Endpoint) -> str:
    """The one model that the first of the endpoint's servers has.

    Raises:
        ValueError: if the server cannot be asked, or has several.
    """
    server = Server(endpoint, endpoint.base_urls[0])
    try:
        names = loop.run(_names(server))
    except (RequestFailedError, RequestRejectedError) as error:
        raise ValueError(f"{server.address} does not say which model it has: {error}") from None
    if len(names) != 1:
        raise ValueError(
            f"{server.address} has {len(names)} models; say which in `model:`. They are {', '.join(names)}"
        )
    return names[0]


async def _names(server: Server) -> list[str]:
    try:
        return sorted(await server.models())
    finally:
        await server.close()


class Server:
    """One base URL."""

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self._key = endpoint.api_key.get_secret_value()
        self._url = url
        self._timeout = endpoint.timeout_s
        self._most = endpoint.concurrency
        self._attempts = endpoint.attempts
        self._client: openai.AsyncOpenAI | None = None
        self.limit = AdaptiveLimit(endpoint.concurrency)
        self._lost = 0

    def went_well(self) -> None:
        self._lost = 0
        self.limit.went_well()

    def failed(self, number: int, failure: RequestFailedError) -> None:
        """Fewer calls at once where it is too much; none for as long as it asks, or cannot be reached."""
        self.limit.pause(min(failure.wait_s or 0.0, _MOST_ASKED_S))
        if (
            failure.reason in OVERLOADED
            and self.limit.pushed_back(number)
            and failure.reason is FailureReason.UNREACHABLE
        ):
            self.limit.pause(min(_FIRST_WAIT_S * 2 ** min(self._lost, 10), _MAX_WAIT_S))
            self._lost += 1

    async def answer(self, request: Request) -> dict[str, Any]:
        """The server's answer to one call, as it came; nothing is tried again here."""
        import httpx2
        import openai

        began = time.monotonic()
        failure: Exception
        try:
            answer = await (self._streamed(request, put) if (put := request.put_together) else self._whole(request))
        except openai.APIError as error:
            failure = self.failure(error)
        except httpx2.TransportError as error:  # in the middle of a stream
            failure = self._unanswered(error)
        else:
            return answer | {"seconds": time.monotonic() - began}
        raise failure  # and not from the SDK's error, whose request and text may hold the key

    async def _whole(self, request: Request) -> dict[str, Any]:
        import httpx2

        # A plain response: the SDK's model objects cost more than the call.
        response = await self.sdk().post(request.path, cast_to=httpx2.Response, body=request.body())
        return _read_json(response.content)

    async def _streamed(self, request: Request, put_together: PutTogether) -> dict[str, Any]:
        import openai

        answer: dict[str, Any] = {}
        body = request.body() | {"stream": True, "stream_options": {"include_usage": True}}
        pieces = await self.sdk().post(
            request.path, cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )
        async with pieces:
            try:
                async for piece in pieces:
                    if isinstance(piece, dict):
                        put_together(answer, piece)
            except ValueError as error:
                raise RequestFailedError(FailureReason.BROKEN, "a piece of its answer is no JSON") from error
        return answer

    async def models(self) -> dict[str, dict[str, Any]]:
        """What it has, by name, each with what the server says of it.

        Raises:
            RequestFailedError: if it cannot be reached, or fails at every attempt.
            RequestRejectedError: if it does not say.
        """
        answer = _read_json(await self._asked("get", "/models"))
        try:
            return {str(model["id"]): dict(model) for model in answer["data"]}
        except (ValueError, KeyError, TypeError):
            raise RequestRejectedError(f"the answer of {self.address} is no list of models") from None

    async def load_adapter(self, name: str, path: str) -> None:
        """Has vLLM load a LoRA adapter at run time; one that is there stays.

        Args:
            path: of the adapter's folder, as the server sees it.

        Raises:
            RequestFailedError: if it cannot be reached, or fails at every attempt.
            RequestRejectedError: if it never would.
        """
        try:
            await self._asked("post", "/load_lora_adapter", body={"lora_name": name, "lora_path": path})
        except RequestRejectedError as error:
            if "already been loaded" not in str(error):  # by another process, or by an attempt that broke off
                raise

    async def _asked(self, method: Literal["get", "post"], path: str, **more: Any) -> bytes:
        """The answer to what is no request for a reply; tried again but where nobody listens."""
        import httpx2
        import openai

        async def once() -> bytes:
            try:
                response = await getattr(self.sdk(), method)(path, cast_to=httpx2.Response, **more)
            except openai.APIError as error:
                failure = self.failure(error)
            else:
                content: bytes = response.content
                return content
            raise failure  # and not from the SDK's error, whose request and text may hold the key

        def may_pass(error: BaseException) -> bool:
            reason = error.reason if isinstance(error, RequestFailedError) else None
            return reason in RETRYABLE and reason is not FailureReason.UNREACHABLE

        return await attempts(self._attempts, may_pass)(once)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            atexit.unregister(self._close_at_exit)
            await client.close()

    def _close_at_exit(self) -> None:
        loop.run(self.close())

    def sdk(self) -> openai.AsyncOpenAI:
        if self._client is None:
            import httpx2
            import openai

            # By aiohttp a call costs two thirds of what it does by the SDK's own transport; but it knows no proxies.
            transport = openai.DefaultAsyncHttpxClient if getproxies() else openai.DefaultAioHttpClient
            self._client = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=self._url,
                max_retries=0,
                timeout=httpx2.Timeout(self._timeout, connect=min(10.0, self._timeout)),
                http_client=transport(limits=httpx2.Limits(max_connections=self._most + 2)),  # two for batches
            )
            atexit.register(self._close_at_exit)
        return self._client

    def _unanswered(self, cause: BaseException) -> RequestFailedError:
        import httpx2

        broke_off = getattr(cause.__cause__, "errno", None) in _BROKEN_OFF
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout) and not broke_off:
            return RequestFailedError(FailureReason.UNREACHABLE, self.said(cause))
        if isinstance(cause, httpx2.TimeoutException) and not broke_off:
            return RequestFailedError(FailureReason.TIMED_OUT, f"no answer within {self._timeout:g} s")
        return RequestFailedError(FailureReason.BROKEN, f"it broke off: {self.said(cause)}")

    def failure(self, error: openai.APIError) -> RequestFailedError | RequestRejectedError:
        """What an error of the SDK comes to. Raise it outside of `except`: the SDK's error may hold the key."""
        import openai

        if isinstance(error, openai.APIConnectionError):
            return self._unanswered(error.__cause__ or error)
        if isinstance(error, openai.APIStatusError):
            return self.turned_down(error.status_code, str(error.code), str(error), error.response.headers)
        return RequestFailedError(FailureReason.BROKEN, self.said(error))

    def turned_down(
        self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None
    ) -> RequestFailedError | RequestRejectedError:
        """What an answer with another status than 200 comes to."""
        said, wait_s = self.said(text), _retry_after(headers or {})
        if status == 400 and any(sign in f"{code} {text}" for sign in _TOO_LONG):
            return RequestFailedError(FailureReason.TOO_LONG, said)
        if status == 400 and code in _FILTERED:
            return RequestFailedError(FailureReason.PROMPT_FILTERED, said)
        if status in (429, 503, 529) and code != "insufficient_quota":
            return RequestFailedError(FailureReason.BUSY, said, wait_s=wait_s)
        if status == 408:
            return RequestFailedError(FailureReason.TIMED_OUT, said)
        if status in (409, 425) or status >= 500:
            return RequestFailedError(FailureReason.BROKEN, said, wait_s=wait_s)
        hint = {401: " Look at the key.", 403: " Look at the key.", 404: " Look at base_urls and model."}.get(
            status, ""
        )
        return RequestRejectedError(f"{self.address} refused the request ({status}): {said}.{hint}", status)

    @property
    def address(self) -> str:
        """The server's address without what may be secret in it."""
        from urllib.parse import urlsplit

        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def said(self, error: BaseException | str) -> str:
        """What an error says, in one line, without the key, which a server may have repeated."""
        said = remove_surrogates(" ".join(str(error).split())) or type(error).__name__
        for secret in (self._key, self._key[:12], self._key[-8:]) if len(self._key) >= 16 else (self._key,):
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


def usage_of(answer: Mapping[str, Any], request: Request) -> tuple[int, int]:
    """Tokens as the server counted them; at their most where it does not say."""
    usage = answer.get("usage")
    if isinstance(usage, Mapping):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            return prompt, completion
    return request.max_prompt_tokens, request.max_completion_tokens or 0


def _read_json(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise RequestFailedError(FailureReason.BROKEN, "its answer is no JSON") from error
    if not isinstance(answer, dict):
        raise RequestFailedError(FailureReason.BROKEN, "its answer is no JSON object")
    return answer
