"""One OpenAI-compatible server: calls to it, and its errors by reason."""

from __future__ import annotations

import atexit
import errno
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx2
import openai
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import (
    OVERLOADED,
    RETRYABLE,
    AddChunk,
    FailureReason,
    Request,
    RequestFailedError,
    RequestRejectedError,
    remove_surrogates,
)
from sage_dialog.llm.server_pool import AdaptiveLimit

_FIRST_WAIT_S, _MAX_WAIT_S = 0.5, 60.0  # random exponential backoff
_MAX_RETRY_AFTER_S = 600.0  # limit on the wait that a server requests
_CONNECTION_LOST = (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE)  # aiohttp: a connection that was established
_TOO_LONG = (  # OpenAI, vLLM, llama.cpp
    *("context_length_exceeded", "string_above_max_length", "maximum context length", "maximum model length"),
    "available context size",
)
_FILTERED = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
_HINTS = {401: " Check the key.", 403: " Check the key.", 404: " Check base_urls and model."}

Answer = TypeVar("Answer")


def retrying(attempts: int, retryable: Callable[[RequestFailedError], bool] = lambda _: True) -> AsyncRetrying:
    """Return a tenacity controller with random exponential backoff."""
    return AsyncRetrying(
        stop=stop_after_attempt(attempts),
        retry=retry_if_exception(lambda error: isinstance(error, RequestFailedError) and retryable(error)),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_MAX_WAIT_S),
        reraise=True,
    )


def served_model(endpoint: Endpoint) -> str:
    """Return the one model of the endpoint's first server.

    Raises:
        ValueError: if the server does not answer, or has several models.
    """
    server = Server(endpoint, endpoint.base_urls[0])

    async def names() -> list[str]:
        try:
            return sorted(await server.models())
        finally:
            await server.close()

    try:
        found = loop.run(names())
    except (RequestFailedError, RequestRejectedError) as error:
        raise ValueError(f"{server.address} does not state its model: {error}") from None
    if len(found) != 1:
        raise ValueError(f"{server.address} has {len(found)} models; name one of them in `model:`: {', '.join(found)}")
    return found[0]


class Server:
    """One base URL."""

    def __init__(self, endpoint: Endpoint, url: str) -> None:
        self._key = endpoint.api_key.get_secret_value()
        self._url = url
        self._timeout = endpoint.timeout_s
        self._concurrency = endpoint.concurrency
        self._attempts = endpoint.attempts
        self._client: openai.AsyncOpenAI | None = None
        self.limit = AdaptiveLimit(endpoint.concurrency)
        self._times_unreachable = 0

    @property
    def address(self) -> str:
        """The base URL without user, password and query."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def on_success(self) -> None:
        self._times_unreachable = 0
        self.limit.recover()

    def on_failure(self, call: int, failure: RequestFailedError) -> None:
        """Lower the limit on an overload; pause for the time that the server requests, or while it is unreachable."""
        self.limit.pause(min(failure.wait_s or 0.0, _MAX_RETRY_AFTER_S))
        if failure.reason in OVERLOADED and self.limit.back_off(call) and failure.reason is FailureReason.UNREACHABLE:
            self.limit.pause(min(_FIRST_WAIT_S * 2 ** min(self._times_unreachable, 10), _MAX_WAIT_S))
            self._times_unreachable += 1

    async def send(self, request: Request) -> dict[str, Any]:
        """Return the server's answer to one call, without retries, with the `seconds` that it took."""
        began = time.monotonic()
        add = request.add_chunk
        answer = await self.convert_errors(self._stream(request, add) if add else self._post(request))
        return answer | {"seconds": time.monotonic() - began}

    async def convert_errors(self, call: Awaitable[Answer]) -> Answer:
        """Return the answer to a call by the SDK.

        Raises:
            RequestFailedError: if another attempt may succeed.
            RequestRejectedError: if not.
        """
        failure: Exception
        try:
            return await call
        except openai.APIConnectionError as error:
            failure = self._transport_failure(error.__cause__ or error)
        except openai.APIStatusError as error:
            failure = self.status_failure(error.status_code, str(error.code), str(error), error.response.headers)
        except openai.APIError as error:
            failure = RequestFailedError(FailureReason.BROKEN, self.redact(error))
        except httpx2.TransportError as error:  # in the middle of a stream
            failure = self._transport_failure(error)
        raise failure  # outside of `except`: the SDK's error holds a request, which may hold the key

    async def _post(self, request: Request) -> dict[str, Any]:
        # A plain response: the SDK's model objects cost more than the call.
        response = await self.sdk().post(request.path, cast_to=httpx2.Response, body=request.body())
        return _parse_json(response.content)

    async def _stream(self, request: Request, add_chunk: AddChunk) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        body = request.body() | {"stream": True, "stream_options": {"include_usage": True}}
        chunks = await self.sdk().post(
            request.path, cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )
        async with chunks:
            try:
                async for chunk in chunks:
                    if isinstance(chunk, dict):
                        add_chunk(answer, chunk)
            except ValueError as error:
                raise RequestFailedError(FailureReason.BROKEN, "a chunk of its answer is no JSON") from error
        return answer

    async def models(self) -> dict[str, dict[str, Any]]:
        """Return the server's models by name, each with its description.

        Raises:
            RequestFailedError: if the server cannot be reached, or all attempts fail.
            RequestRejectedError: if its answer is no list of models.
        """
        answer = _parse_json(await self._manage(lambda: self.sdk().get("/models", cast_to=httpx2.Response)))
        try:
            return {str(model["id"]): dict(model) for model in answer["data"]}
        except (ValueError, KeyError, TypeError):
            raise RequestRejectedError(f"the answer of {self.address} is no list of models") from None

    async def load_adapter(self, name: str, path: str) -> None:
        """Load a LoRA adapter into a vLLM server at run time, unless it is loaded.

        Args:
            path: of the adapter's folder, on the server's file system.

        Raises:
            RequestFailedError: if the server cannot be reached, or all attempts fail.
            RequestRejectedError: if the server does not load it.
        """
        body = {"lora_name": name, "lora_path": path}
        try:
            await self._manage(lambda: self.sdk().post("/load_lora_adapter", cast_to=httpx2.Response, body=body))
        except RequestRejectedError as error:
            if "already been loaded" not in str(error):  # by another process, or by an interrupted attempt
                raise

    async def _manage(self, call: Callable[[], Awaitable[httpx2.Response]]) -> bytes:
        """Return the answer to a management call, with retries unless the server is unreachable."""
        retryable = set(RETRYABLE) - {FailureReason.UNREACHABLE}
        async for attempt in retrying(self._attempts, lambda failure: failure.reason in retryable):
            with attempt:
                content = (await self.convert_errors(call())).content
        return content

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            atexit.unregister(self._close_at_exit)
            await client.close()

    def _close_at_exit(self) -> None:
        loop.run(self.close())

    def sdk(self) -> openai.AsyncOpenAI:
        """Return the SDK's client, opened at the first use."""
        if self._client is None:
            # A call by aiohttp costs two thirds of one by the SDK's own transport, but aiohttp ignores proxies.
            transport = openai.DefaultAsyncHttpxClient if getproxies() else openai.DefaultAioHttpClient
            self._client = openai.AsyncOpenAI(
                api_key=self._key,
                base_url=self._url,
                max_retries=0,
                timeout=httpx2.Timeout(self._timeout, connect=min(10.0, self._timeout)),
                http_client=transport(limits=httpx2.Limits(max_connections=self._concurrency + 2)),  # two for batches
            )
            atexit.register(self._close_at_exit)
        return self._client

    def _transport_failure(self, cause: BaseException) -> RequestFailedError:
        connection_lost = getattr(cause.__cause__, "errno", None) in _CONNECTION_LOST
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout) and not connection_lost:
            return RequestFailedError(FailureReason.UNREACHABLE, self.redact(cause))
        if isinstance(cause, httpx2.TimeoutException) and not connection_lost:
            return RequestFailedError(FailureReason.TIMED_OUT, f"no answer within {self._timeout:g} s")
        return RequestFailedError(FailureReason.BROKEN, f"the connection was lost: {self.redact(cause)}")

    def status_failure(
        self, status: int, code: str, text: str, headers: Mapping[str, str] | None = None
    ) -> RequestFailedError | RequestRejectedError:
        """Convert an answer with another status than 200."""
        detail, wait_s = self.redact(text), _retry_after(headers or {})
        if status == 400 and any(sign in f"{code} {text}" for sign in _TOO_LONG):
            return RequestFailedError(FailureReason.TOO_LONG, detail)
        if status == 400 and code in _FILTERED:
            return RequestFailedError(FailureReason.PROMPT_FILTERED, detail)
        if status in (429, 503, 529) and code != "insufficient_quota":
            return RequestFailedError(FailureReason.BUSY, detail, wait_s=wait_s)
        if status == 408:
            return RequestFailedError(FailureReason.TIMED_OUT, detail)
        if status in (409, 425) or status >= 500:
            return RequestFailedError(FailureReason.BROKEN, detail, wait_s=wait_s)
        return RequestRejectedError(
            f"{self.address} refused the request ({status}): {detail}.{_HINTS.get(status, '')}", status
        )

    def redact(self, error: BaseException | str) -> str:
        """Return an error's message in one line, without the key, which a server may repeat."""
        message = remove_surrogates(" ".join(str(error).split())) or type(error).__name__
        for secret in (self._key, self._key[:12], self._key[-8:]) if len(self._key) >= 16 else (self._key,):
            if len(secret) >= 6:
                message = message.replace(secret, "[key]")
        return message[:500]


def token_usage(answer: Mapping[str, Any], request: Request) -> tuple[int, int]:
    """Return the tokens of prompt and response as the server counted them; upper bounds if it does not."""
    usage = answer.get("usage")
    if isinstance(usage, Mapping):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int):
            return prompt, completion
    return request.max_prompt_tokens, request.max_completion_tokens or 0


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the wait that the server requests, in seconds, from any of the headers in use."""
    forms: tuple[tuple[str, Callable[[str], float]], ...] = (
        ("retry-after-ms", lambda milliseconds: float(milliseconds) / 1000),
        ("retry-after", float),
        ("retry-after", lambda date: parsedate_to_datetime(date).timestamp() - time.time()),
    )
    for name, seconds in forms:
        with suppress(KeyError, ValueError, TypeError):
            return max(0.0, seconds(headers[name]))
    return None


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError as error:
        raise RequestFailedError(FailureReason.BROKEN, "its answer is no JSON") from error
    if not isinstance(answer, dict):
        raise RequestFailedError(FailureReason.BROKEN, "its answer is no JSON object")
    return answer
