"""A server for tests that speaks /v1/chat/completions over real HTTP and fails like real servers.

Its response depends on the request alone, its failure on the request and on how often it
was sent, so that runs against it can be compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from aiohttp import web

TEMPORARY = ("429", "429 waits", "500", "reset", "half", "no json")
"""Temporary failures, which cost nothing."""
UNUSABLE = ("refused", "truncated", "empty", "filtered")
"""Billed but unusable responses."""
WRONG_FORM = "Sure! Here you are: {"
EVERY_FAULT = (*TEMPORARY, *UNUSABLE, "wrong form", "never")


@dataclass
class Call:
    """A call; `outcome` is "reply" for a usable response, else the fault."""

    key: str
    body: dict[str, Any]
    headers: Mapping[str, str]
    outcome: str = "in flight"
    usage: int = 0


@dataclass
class FaultyServer:
    """Runs in a thread of its own for as long as the `with` lasts.

    Args:
        reply: text for a request's body.
        share: share of calls that fail.
        faults: possible faults, drawn by `seed`, request and attempt.
        script: outcomes of the first calls of each request, instead of drawn ones: a fault, or "" for a reply.
        latency_s: seconds until each answer.
        retry_after: headers of a "429 waits".
        status: status and JSON body that every call gets instead.
        refuse: status and text for a request's body, or None for an answer.
        change: changes a complete answer.
        streams: whether it streams an answer that is requested as a stream, word by word; "half" breaks one off.
        models: names in its list of models.
    """

    reply: Callable[[dict[str, Any]], str] = lambda body: "echo " + body["messages"][-1]["content"]
    share: float = 0.0
    faults: Sequence[str] = TEMPORARY
    seed: int = 0
    script: Sequence[str] = ()
    latency_s: float = 0.0
    retry_after: Mapping[str, str] = field(default_factory=lambda: {"retry-after-ms": "1"})
    status: tuple[int, dict[str, Any]] | None = None
    refuse: Callable[[dict[str, Any]], tuple[int, str] | None] = lambda body: None
    change: Callable[[dict[str, Any]], object] = lambda answer: None
    streams: bool = True
    models: Sequence[str] = ("some-model",)
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    most_in_flight: int = 0
    in_flight: int = 0

    def __post_init__(self) -> None:
        self._attempts: Counter[str] = Counter()
        self._open = threading.Event()
        self._open.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._thread.is_alive():  # stopped by a test
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def paid(self) -> Counter[str]:
        """Usable responses by request."""
        return Counter(call.key for call in self.calls if call.outcome == "reply")

    def hold(self) -> None:
        """Accept calls, and answer them after `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def wait_for(self, in_flight: int, timeout_s: float = 120) -> None:
        """Wait until so many calls are held."""
        deadline = time.monotonic() + timeout_s
        while self.in_flight < in_flight:
            assert time.monotonic() < deadline, f"{self.in_flight} calls came, not {in_flight}"
            time.sleep(0.002)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_get("/v1/models", self._list)
        self._over = asyncio.Event()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        self._open.set()
        self._over.set()
        await self._runner.cleanup()

    async def _list(self, _: web.Request) -> web.Response:
        if not self.models:
            raise web.HTTPInternalServerError
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _answer(self, http_request: web.Request) -> web.StreamResponse:
        body = await http_request.json()
        call = Call(key_of(body), body, http_request.headers.copy())
        self.calls.append(call)
        self._attempts[call.key] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        fault = self._drawn(call.key, self._attempts[call.key])
        try:
            await asyncio.sleep(self.latency_s)
            while not self._open.is_set():
                await asyncio.sleep(0.002)
        finally:
            self.in_flight -= 1
        return await self._respond(http_request, call, fault)

    def _drawn(self, key: str, attempt: int) -> str:
        if attempt <= len(self.script):
            return self.script[attempt - 1]
        draw = random.Random(f"{self.seed}/{key}/{attempt}")
        return draw.choice(self.faults) if draw.random() < self.share else ""

    async def _respond(self, http_request: web.Request, call: Call, fault: str) -> web.StreamResponse:
        if self.status:
            call.outcome = str(self.status[0])
            echoed = json.dumps(self.status[1]).replace("AUTHORIZATION", call.headers.get("Authorization", ""))
            return web.Response(status=self.status[0], text=echoed, content_type="application/json")
        if refused := self.refuse(call.body):
            call.outcome = str(refused[0])
            return web.Response(status=refused[0], text=refused[1])
        call.outcome = fault or "reply"
        if fault == "429":
            return web.json_response({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, status=429)
        if fault == "429 waits":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers=self.retry_after)
        if fault == "500":
            return web.json_response({"error": {"message": "out of order"}}, status=500)
        if fault == "no json":
            return web.Response(text='{"choices": [{"message": ', content_type="application/json")
        if fault == "reset":
            http_request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            http_request.transport.abort()
            return web.Response()
        if fault == "never":
            await self._over.wait()
        answer = self._completion(call, fault)
        self.change(answer)
        if fault == "trickles":
            return await self._trickle(http_request)
        if call.body.get("stream") and self.streams:
            return await self._stream(http_request, answer, broken=fault == "half")
        text = json.dumps(answer).encode()
        if fault == "half":
            response = web.StreamResponse(
                headers={"Content-Length": str(len(text)), "Content-Type": "application/json"}
            )
            await response.prepare(http_request)
            await response.write(text[: len(text) // 2])
            http_request.transport.close()
            return response
        call.usage = sum(number for number in answer.get("usage", {}).values() if isinstance(number, int))
        return web.Response(body=text, content_type="application/json")

    async def _stream(self, http_request: web.Request, answer: dict[str, Any], broken: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http_request)
        (choice,) = answer["choices"]
        words = (choice["message"]["content"] or "").split(" ")
        pieces = [*(f"{word} " for word in words[:-1]), words[-1]]
        deltas: list[dict[str, Any]] = [{"delta": {"content": piece}} for piece in pieces]
        deltas += [{"delta": {}, "finish_reason": choice["finish_reason"]}]
        chunks = [{"model": answer["model"], "choices": [{"index": 0, **delta}]} for delta in deltas]
        for chunk in chunks[: 1 if broken else None]:
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        if not broken:
            await response.write(f"data: {json.dumps({'choices': [], 'usage': answer['usage']})}\n\n".encode())
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _trickle(self, http_request: web.Request) -> web.StreamResponse:
        """Send a space now and then, and never an answer, as gateways do to keep a connection open."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(http_request)
        with suppress(ConnectionError):
            while not self._over.is_set():
                await response.write(b" ")
                await asyncio.sleep(0.02)
        return response

    def _completion(self, call: Call, fault: str) -> dict[str, Any]:
        text: str | None = self.reply(call.body)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        finished = "stop"
        if fault == "refused":
            message |= {"content": None, "refusal": "I would rather not."}
        elif fault == "truncated":
            message["content"], finished = text[: len(text) // 2], "length"
        elif fault == "filtered":
            message["content"], finished = text[:1], "content_filter"
        elif fault == "empty":
            message["content"] = " \n"
        elif fault == "wrong form":
            message["content"] = WRONG_FORM
        letters = sum(len(message["content"]) for message in call.body["messages"])
        return {
            "id": call.key[:8],
            "object": "chat.completion",
            "model": call.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": finished}],
            "usage": {"prompt_tokens": letters // 4 + 1, "completion_tokens": len(message["content"] or "") // 4 + 1},
        }


def key_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
