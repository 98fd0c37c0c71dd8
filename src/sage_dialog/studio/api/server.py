"""The OpenAI-compatible API of a policy, for clients on this machine.

With `kedro sage serve` running::

    from openai import OpenAI

    client = OpenAI(base_url="http://127.0.0.1:4143/v1", api_key="none")
    reply = client.chat.completions.create(
        model="sage_dpo",
        messages=[{"role": "user", "content": "I lost my keys."}],
        extra_body={"steering": {"boosts": {"a_motivation": {"humor": 4}}}},
    )
    print(reply.choices[0].message.content, reply.choices[0].message.action)
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from sage_dialog.studio.api.replies import usage
from sage_dialog.studio.api.requests import ApiError, parse_request
from sage_dialog.studio.api.served_policy import Change, Done, Event, Reply, ServedPolicy
from sage_dialog.studio.local_server import HOST_CHECK, is_own_origin, read_body

MAX_BODY = 512 * 1024  # bytes; more text than any context holds
CHECK_EVERY = 0.5  # seconds after which a client that waits is looked for
HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


def make_app(served: ServedPolicy) -> Starlette:
    """Return the application: `/v1/models` and `/v1/chat/completions`.

    Pages of other sites have no access: their Origin and their host names are refused.
    """
    model = {"id": served.policy, "object": "model", "created": int(time.time()), "owned_by": "sage-dialog"}

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model]}, headers=HEADERS)

    async def one_model(request: Request) -> Response:
        _check_model(request.path_params["name"], served.policy)
        return JSONResponse(model, headers=HEADERS)

    async def completions(request: Request) -> Response:
        if not is_own_origin(request):
            raise ApiError(403, "Pages of other sites have no access.", code="foreign_origin")
        asked = parse_request(await read_body(request, MAX_BODY))
        _check_model(asked.model, served.policy)
        reply = served.start(asked)
        try:
            event = await _next(reply, request)
            if isinstance(event, ApiError):
                raise event
            if asked.stream:
                return _EventStream(reply, served)
            while not isinstance(event, Done | ApiError):
                event = await _next(reply, request)
        except BaseException:
            reply.job.cancelled.set()
            raise
        if isinstance(event, ApiError):
            raise event
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
            for index, (message, reason) in enumerate(event.messages)
        ]
        tokens = usage(event.prompt_tokens, event.completion_tokens)
        head = _head("chat.completion", served)
        return JSONResponse({**head, "choices": choices, "usage": tokens}, headers=HEADERS)

    async def refuse(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, f"{error.detail}", code=None)
        assert isinstance(error, ApiError)
        return JSONResponse(error.body(), error.status, headers=HEADERS)

    return Starlette(
        routes=[
            Route("/v1/models", models),
            Route("/v1/models/{name}", one_model),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ],
        middleware=[HOST_CHECK],
        exception_handlers={ApiError: refuse, HTTPException: refuse},
    )


def _check_model(name: str, policy: str) -> None:
    if name != policy:
        raise ApiError(404, f"There is no model {name!r}; this server has {policy}.", "model", "model_not_found")


async def _next(reply: Reply, request: Request) -> Event:
    """Return the next event of a reply. Raises ApiError if the client has hung up."""
    while True:
        try:
            return await asyncio.wait_for(reply.events.get(), CHECK_EVERY)
        except TimeoutError:
            if await request.is_disconnected():
                raise ApiError(499, "The client has hung up.") from None  # nobody reads it


def _head(kind: str, served: ServedPolicy) -> dict[str, Any]:
    """Return the fields that every response begins with."""
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": served.policy,
        "system_fingerprint": served.fingerprint,
    }


class _EventStream(StreamingResponse):
    """A reply as server-sent events. The engine stops where the client hangs up."""

    def __init__(self, reply: Reply, served: ServedPolicy) -> None:
        super().__init__(_stream(reply, served), media_type="text/event-stream", headers=HEADERS)
        self._job = reply.job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancelled.set()


async def _stream(reply: Reply, served: ServedPolicy) -> AsyncIterator[str]:
    """Yield a reply as server-sent events."""
    request = reply.request
    head = _head("chat.completion.chunk", served)
    with_usage = request.stream_options is not None and bool(request.stream_options.include_usage)

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [choice]} | ({"usage": None} if with_usage else {}))

    yield chunk(0, {"role": "assistant", "content": ""})
    while not isinstance(event := await reply.events.get(), Done | ApiError):
        if isinstance(event, Change):
            yield chunk(0, event.delta)
    if isinstance(event, ApiError):
        yield _event(event.body())
        return
    for index, (message, reason) in enumerate(event.messages):
        if index:
            yield chunk(index, {name: value for name, value in message.items() if name != "refusal"})
        yield chunk(index, {}, reason)
    if with_usage:
        yield _event({**head, "choices": [], "usage": usage(event.prompt_tokens, event.completion_tokens)})
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
