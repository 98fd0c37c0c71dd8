"""One OpenAI-compatible server: calls to it, and its errors by reason."""

from __future__ import annotations

import asyncio
import atexit
import errno
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
import openai

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.answers import parse_json, retry_after
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
from sage_dialog.llm.retries import longest_wait_s, retry
from sage_dialog.llm.server_errors import error_message, is_filtered, is_too_long, other_name, unsupported_field
from sage_dialog.llm.server_pool import AdaptiveLimit

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER_S = 600.0  # limit on the wait that a server requests
_MAX_FIRST_PAUSE_S = 5.0  # of a server that has never answered
_OUTAGE = 3  # pauses in succession of an unreachable server
_LOGGED_PAUSE_S = 5.0  # pauses from this length on are logged
_CALL_TIMEOUTS = 2  # limit on a call, in `timeout_s`: a server may send a byte now and then, and never finish
_NEW_SEED = 1_000_003  # added to the seed after each unusable response: an equal body would get an equal response
_REFUSALS = (400, 403, 413, 422, 451)  # of one request, for what it says
REJECTIONS = (400, 422)
"""Statuses that may concern one request alone; whether others succeed tells."""
_CONNECTION_LOST = (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE)  # aiohttp: a connection that was established
_ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}  # as the SDK sends them
_HINTS = {401: " Check the key.", 403: " Check the key.", 404: " Check base_urls and model."}

Answer = TypeVar("Answer")


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
        raise ValueError(
            f"{server.address} does not state its model: {str(error).rstrip('.')}. Start the server, or name its model "
            "in `model:`"
        ) from None
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
        self._session: aiohttp.ClientSession | None = None
        self.limit = AdaptiveLimit(endpoint.concurrency)
        self._times_unreachable = 0
        self._names: dict[str, str | None] = {}  # fields that the server does not support: their other name, or None
        self.has_answered = False

    @property
    def address(self) -> str:
        """The base URL without user, password and query."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def on_success(self) -> bool:
        """Raise the limit; return whether this ends an outage."""
        outage = self._times_unreachable >= _OUTAGE
        if outage:
            logger.info("%s answers again", self.address)
        self._times_unreachable = 0
        self.limit.recover()
        return outage

    def on_failure(self, call: int, failure: RequestFailedError) -> None:
        """Lower the limit on an overload; pause for the time that the server requests, or while it is unreachable."""
        self._pause(min(failure.wait_s or 0.0, _MAX_RETRY_AFTER_S), failure)
        if failure.reason in OVERLOADED and self.limit.back_off(call) and failure.reason is FailureReason.UNREACHABLE:
            pause_s = longest_wait_s(self._times_unreachable)
            self._pause(pause_s if self.has_answered else min(pause_s, _MAX_FIRST_PAUSE_S), failure)
            self._times_unreachable += 1

    def _pause(self, seconds: float, failure: RequestFailedError) -> None:
        added = self.limit.pause(seconds)
        if seconds >= _LOGGED_PAUSE_S and added > 1:  # not again for each of the calls in flight
            end = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
            logger.warning("%s: no calls until %s (%.0f s), because %s", self.address, end, seconds, failure)

    async def send(self, request: Request, new_seeds: int = 0) -> dict[str, Any]:
        """Return the server's answer to one call, without retries, with the `seconds` that it took.

        Args:
            new_seeds: number of the unusable responses so far; each changes the seed, which is not in the cache key.
        """
        body = self.body(request, new_seeds)
        add = request.add_chunk
        session = self._open_session()
        began = time.monotonic()
        try:
            async with asyncio.timeout(None if add else _CALL_TIMEOUTS * self._timeout):
                if add:
                    answer = await self.convert_errors(self._stream(request.path, body, add))
                else:
                    as_is = not new_seeds and not self._names
                    content = request.encoded_body if as_is else json.dumps(body).encode()
                    answer = await self._post(session, request.path, content)
        except TimeoutError:
            detail = f"no complete answer within {_CALL_TIMEOUTS * self._timeout:g} s"
            raise RequestFailedError(FailureReason.TIMED_OUT, detail) from None
        except RequestRejectedError as error:
            if self.leave_out(body, error):
                raise RequestFailedError(FailureReason.UNSUPPORTED, error.detail) from None
            raise
        return answer | {"seconds": time.monotonic() - began}

    def body(self, request: Request, new_seeds: int = 0) -> dict[str, Any]:
        """Return the request's body without the fields that the server does not support."""
        body = request.body()
        if new_seeds and isinstance(seed := body.get("seed"), int):
            body["seed"] = seed + new_seeds * _NEW_SEED
        for field, name in self._names.items():
            if field in body:
                value = body.pop(field)
                if name is not None:
                    body[name] = value
        return body

    def leave_out(self, body: Mapping[str, Any], error: RequestRejectedError) -> bool:
        """Leave out, from now on, the field that the server refuses by its name; return whether there is one.

        Limits on tokens are sent by their other name: caps depend on them. The cache key stays that of the request.
        """
        if error.status not in (400, 422) or "messages" not in body:
            return False
        field = unsupported_field(error.detail, body)
        if field is None:
            return False
        if field in self._names:  # this call was in flight before
            return True
        name = other_name(field)
        if name is not None and (name in self._names or name in body):
            return False
        self._names[field] = name
        instead = f"sent as {name}" if name else "left out"
        if field == "response_format":
            instead += "; the prompt alone states the form of the response (json_schema: false avoids the first call)"
        logger.warning("%s does not support %s, which is now %s: %s", self.address, field, instead, error.detail)
        return True

    async def convert_errors(self, call: Awaitable[Answer]) -> Answer:
        """Return the answer to a call by the SDK.

        Raises:
            RequestFailedError: if another attempt may succeed.
            RequestRejectedError: if not.
        """
        failure: Exception
        try:
            answer = await call
            self.has_answered = True
            return answer
        except openai.APIConnectionError as error:
            failure = self._transport_failure(error.__cause__ or error)
        except openai.APIStatusError as error:
            self.has_answered = True
            failure = self.status_failure(error.status_code, error.response.text, error.response.headers)
        except openai.APIError as error:
            failure = RequestFailedError(FailureReason.BROKEN, self.redact(error))
        except httpx2.TransportError as error:  # in the middle of a stream
            failure = self._transport_failure(error)
        raise failure  # outside of `except`: the SDK's error holds a request, which may hold the key

    async def _post(self, session: aiohttp.ClientSession, path: str, body: bytes) -> dict[str, Any]:
        # By aiohttp: the SDK's own work on a request and its response costs more than all else.
        status, content, headers = await self._exchange(session, path, body)
        if status != 200:
            raise self.status_failure(status, content.decode("utf-8", "replace"), headers)
        answer = parse_json(content)
        if answer.get("error") and not answer.get("choices"):  # some gateways report errors with the status 200
            code = answer["error"].get("code") if isinstance(answer["error"], Mapping) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 500
            raise self.status_failure(status, content.decode("utf-8", "replace"), headers)
        return answer

    async def _exchange(
        self, session: aiohttp.ClientSession, path: str, content: bytes
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a body; return status, body and headers of the answer."""
        try:
            async with session.post(self._url.rstrip("/") + path, data=content) as response:
                self.has_answered = True
                return response.status, await response.read(), response.headers
        except (aiohttp.ClientError, OSError) as error:
            failure = self._connection_failure(error)
        raise failure  # outside of `except`: aiohttp's error may hold a request with the key

    async def _stream(self, path: str, body: Mapping[str, Any], add_chunk: AddChunk) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        chunks = await self.sdk().post(
            path, cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )
        async with chunks:
            if not chunks.response.headers.get("content-type", "").startswith("text/event-stream"):
                return parse_json(await chunks.response.aread())  # of a server that does not stream
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
        answer = parse_json(await self._manage(lambda: self.sdk().get("/models", cast_to=httpx2.Response)))
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
        response = await retry(
            lambda: self.convert_errors(call()), self._attempts, lambda failure: failure.reason in retryable
        )
        return response.content

    async def close(self) -> None:
        client, self._client = self._client, None
        session, self._session = self._session, None
        atexit.unregister(self._close_at_exit)
        if session is not None:
            await session.close()
        if client is not None:
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

    def _open_session(self) -> aiohttp.ClientSession:
        """Return the session of plain calls, opened at the first use."""
        if self._session is None:
            account = {name: os.environ.get(variable) for name, variable in _ACCOUNT.items()}
            address = urlsplit(self._url)
            headers = {"Content-Type": "application/json"}
            if address.username is None:  # else aiohttp sends user and password
                headers["Authorization"] = f"Bearer {self._key}"
            secure = address.scheme == "https"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._concurrency, ssl=httpx2.create_ssl_context() if secure else True
                ),
                timeout=aiohttp.ClientTimeout(sock_connect=min(10.0, self._timeout), sock_read=self._timeout),
                headers=headers | {name: value for name, value in account.items() if value},
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=_proxy(address.scheme, address.hostname or ""),  # not trust_env: ~/.netrc would replace the key
            )
            atexit.register(self._close_at_exit)
        return self._session

    def _connection_failure(self, error: BaseException) -> RequestFailedError:
        """Convert an error of aiohttp."""
        lost = getattr(error, "errno", None) in _CONNECTION_LOST
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) and not lost:
            return RequestFailedError(FailureReason.UNREACHABLE, self.redact(error))
        self.has_answered = True
        if isinstance(error, TimeoutError):
            return RequestFailedError(FailureReason.TIMED_OUT, f"no answer within {self._timeout:g} s")
        return RequestFailedError(FailureReason.BROKEN, f"the connection was lost: {self.redact(error)}")

    def _transport_failure(self, cause: BaseException) -> RequestFailedError:
        connection_lost = getattr(cause.__cause__, "errno", None) in _CONNECTION_LOST
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout) and not connection_lost:
            return RequestFailedError(FailureReason.UNREACHABLE, self.redact(cause))
        self.has_answered = True
        if isinstance(cause, httpx2.TimeoutException) and not connection_lost:
            return RequestFailedError(FailureReason.TIMED_OUT, f"no answer within {self._timeout:g} s")
        return RequestFailedError(FailureReason.BROKEN, f"the connection was lost: {self.redact(cause)}")

    def status_failure(
        self, status: int, content: str, headers: Mapping[str, str] | None = None
    ) -> RequestFailedError | RequestRejectedError:
        """Convert an answer with another status than 200.

        Args:
            content: the answer's body.
        """
        message, codes = error_message(content)
        text = f"{codes} {message}"
        detail, wait_s = self.redact(message or f"status {status}"), retry_after(headers or {})
        if status in _REFUSALS and is_filtered(text):
            return RequestFailedError(FailureReason.PROMPT_FILTERED, detail)
        if status in _REFUSALS and (is_too_long(text) or status == 413):
            return RequestFailedError(FailureReason.TOO_LONG, detail)
        if status in (429, 503, 529) and "insufficient_quota" not in codes:
            return RequestFailedError(FailureReason.BUSY, detail, wait_s=wait_s)
        if status == 408:
            return RequestFailedError(FailureReason.TIMED_OUT, detail)
        if status in (409, 425) or status >= 500:
            return RequestFailedError(FailureReason.BROKEN, detail, wait_s=wait_s)
        refused = f"{self.address} refused the request ({status}): {detail.rstrip('.')}.{_HINTS.get(status, '')}"
        return RequestRejectedError(refused, status, detail)

    def redact(self, error: BaseException | str) -> str:
        """Return an error's message in one line, without the key, which a server may repeat."""
        message = remove_surrogates(" ".join(str(error).split())) or type(error).__name__
        for secret in (self._key, self._key[:12], self._key[-8:]) if len(self._key) >= 16 else (self._key,):
            if len(secret) >= 6:
                message = message.replace(secret, "[key]")
        return message[:500]


def _proxy(scheme: str, host: str) -> str | None:
    """Return the proxy for a host by the environment or the system."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
