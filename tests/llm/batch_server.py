"""A server for tests that has /v1/files and /v1/batches over real HTTP, and fails where a test configures it.

A batch advances by one state at each poll. The outcome of a request depends on its body and on how often the server
has received it, so that runs can be compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

KEY = "sk-a-key-for-tests-1234567890"
_PROMPT_TOKENS, _REPLY_TOKENS = 10, 5

_FINISHED = {"truncated": "length", "filtered": "content_filter"}


@dataclass
class BatchServer:
    """Runs in a thread of its own for as long as the `with` lasts.

    Args:
        reply: text for a request's body.
        script: by a word of a request's message, what happens to it each time it is sent: "reply", "truncated",
            "filtered", "empty", "refused", a status such as 500, an error's code such as "request_timeout", "half a
            line", "no line", or "twice": two more lines, one of them with an unknown id. After the last one, a reply.
        ends: how the first batches end; the others are completed. "failed" takes `errors` for its reasons.
        done_share: share of the requests that are done in a batch that expires or is cancelled.
        polls: number of the poll at which a batch has ended.
        failing: by event, how often the answer is a 500 although it was done: "upload", "create", "poll", "list",
            "download".
        kill_at: event at which the client's process (`victim`) is killed: done by the server, not yet answered.
        no_batches: answer 404 as a server without a batch API.
    """

    reply: Callable[[dict[str, Any]], str] = lambda body: "echo " + body["messages"][-1]["content"]
    script: dict[str, Sequence[str | int]] = field(default_factory=dict)
    ends: Sequence[str] = ()
    errors: Sequence[dict[str, Any]] = ()
    done_share: float = 0.5
    polls: int = 3
    failing: Counter[str] = field(default_factory=Counter)
    kill_at: str = ""
    no_batches: bool = False
    victim: subprocess.Popen[bytes] | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    refused_keys: int = 0

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> BatchServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submitted(self) -> list[list[str]]:
        """The messages of each batch that was created, in the order of their creation."""
        return [
            [json.loads(line)["body"]["messages"][-1]["content"] for line in self._lines(batch)]
            for batch in self.batches.values()
            if "sage" in batch["metadata"]
        ]

    def _lines(self, batch: dict[str, Any]) -> list[bytes]:
        return self.files[batch["input_file_id"]].splitlines()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**30, middlewares=[self._admit])
        if not self.no_batches:
            app.router.add_post("/v1/files", self._upload)
            app.router.add_get("/v1/files/{id}/content", self._download)
            app.router.add_post("/v1/batches", self._create)
            app.router.add_get("/v1/batches", self._list)
            app.router.add_get("/v1/batches/{id}", self._retrieve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    @web.middleware
    async def _admit(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        if authorization != f"Bearer {KEY}":
            self.refused_keys += 1
            return _error(
                401, f"Incorrect API key provided: {authorization.removeprefix('Bearer ')}.", "invalid_api_key"
            )
        response: web.StreamResponse = await handler(request)
        return response

    async def _done(self, event: str, answer: Any) -> web.Response:
        if self.kill_at == event:
            self.kill_at = ""
            while self.victim is None:
                await asyncio.sleep(0.01)
            os.kill(self.victim.pid, signal.SIGKILL)
            await asyncio.to_thread(self.victim.wait)
        if self.failing[event] > 0:
            self.failing[event] -= 1
            return _error(500, "something broke", "server_error")
        return web.Response(body=answer) if isinstance(answer, bytes) else web.json_response(answer)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        name = self._store(form["file"].file.read())
        about = {"id": name, "object": "file", "bytes": len(self.files[name]), "created_at": 0, "purpose": "batch"}
        return await self._done("upload", about | {"filename": form["file"].filename, "status": "processed"})

    def _store(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    async def _download(self, request: web.Request) -> web.Response:
        return await self._done("download", self.files[request.match_info["id"]])

    async def _create(self, request: web.Request) -> web.Response:
        fields = await request.json()
        if fields["input_file_id"] not in self.files or fields["completion_window"] != "24h":
            return _error(400, "no such file or window", "invalid_request")
        return await self._done("create", _public_fields(self.add(**fields)))

    def add(self, **fields: Any) -> dict[str, Any]:
        number = len(self.batches)
        batch = {"id": f"batch-{number}", "object": "batch", "created_at": number, "polls": 0, "status": "validating"}
        self.batches[batch["id"]] = batch | fields
        return self.batches[batch["id"]]

    async def _list(self, request: web.Request) -> web.Response:
        names = list(self.batches)[::-1]
        after, limit = request.query.get("after"), int(request.query.get("limit", 20))
        if after:
            names = names[names.index(after) + 1 :]
        data = [_public_fields(self.batches[name]) for name in names[:limit]]
        return await self._done("list", {"object": "list", "data": data, "has_more": len(names) > limit})

    async def _retrieve(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "No such batch", "not_found")
        batch["polls"] += 1
        if batch["polls"] == self.polls:
            self._end(batch)
        elif batch["polls"] < self.polls:
            batch["status"] = ("validating", "in_progress", "finalizing")[min(batch["polls"] - 1, 2)]
        return await self._done("poll", _public_fields(batch))

    def _end(self, batch: dict[str, Any]) -> None:
        number = [one["id"] for one in self.batches.values() if "sage" in one["metadata"]].index(batch["id"])
        status = batch["status"] = self.ends[number] if number < len(self.ends) else "completed"
        if faults := list(self.errors) if status == "failed" else self._faults(batch):
            batch |= {"status": "failed", "errors": {"object": "list", "data": faults}}
            return
        lines = self._lines(batch)
        done = len(lines) if status == "completed" else int(len(lines) * self.done_share)
        output: list[bytes] = []
        errors: list[bytes] = []
        for n, line in enumerate(lines):
            request = json.loads(line)
            if n < done:
                self._answer(request, output, errors)
            else:
                code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}[status]
                errors.append(_result(request, None, {"code": code, "message": "not in time"}))
        output.reverse()  # the order is not specified
        for name, content in (("output_file_id", output), ("error_file_id", errors)):
            batch[name] = self._store(b"".join(content)) if content else None
        batch["request_counts"] = {"total": len(lines), "completed": len(output), "failed": len(errors)}

    def _faults(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        faults = []
        ids: set[str] = set()
        for n, line in enumerate(self._lines(batch), 1):
            try:
                entry = json.loads(line)
                good = entry["method"] == "POST" and entry["url"] == batch["endpoint"] == "/v1/chat/completions"
                good = good and entry["body"]["model"] and entry["body"]["messages"] and entry["custom_id"] not in ids
                ids.add(entry["custom_id"])
            except (ValueError, KeyError, TypeError):
                good = False
            if not good:
                faults.append({"code": "invalid", "line": n, "message": "not a request", "param": None})
        return faults

    def _answer(self, request: dict[str, Any], output: list[bytes], errors: list[bytes]) -> None:
        text = request["body"]["messages"][-1]["content"]
        scripted = next((outcomes for word, outcomes in self.script.items() if word in text.split()), ())
        outcome = scripted[self.seen[text]] if self.seen[text] < len(scripted) else "reply"
        self.seen[text] += 1
        if isinstance(outcome, int) or outcome in ("context_length_exceeded",):
            status = outcome if isinstance(outcome, int) else 400
            body = {"error": {"message": "not like this", "code": None if isinstance(outcome, int) else outcome}}
            errors.append(_result(request, {"status_code": status, "request_id": "r", "body": body}, None))
            return
        if outcome == "request_timeout":
            errors.append(_result(request, None, {"code": outcome, "message": "took too long"}))
            return
        self.paid[text] += 1
        if outcome == "no line":
            return
        message = {"role": "assistant", "content": self.reply(request["body"]), "refusal": None}
        if outcome == "empty":
            message["content"] = ""
        if outcome == "refused":
            message |= {"content": None, "refusal": "I would rather not"}
        choice = {"index": 0, "message": message, "finish_reason": _FINISHED.get(str(outcome), "stop")}
        usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": _REPLY_TOKENS}
        body = {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}
        line = _result(request, {"status_code": 200, "request_id": "r", "body": body}, None)
        output.append(line[: len(line) // 2] + b"\n" if outcome == "half a line" else line)
        if outcome == "twice":
            errors.append(_result(request, {"status_code": 500, "request_id": "r", "body": {}}, None))
            output.append(_result({"custom_id": "unknown"}, {"status_code": 200, "body": body}, None))


def _result(request: dict[str, Any], response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    line = {"id": "l", "custom_id": request["custom_id"], "response": response, "error": error}
    return json.dumps(line).encode() + b"\n"


def _public_fields(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name != "polls"}


def _error(status: int, message: str, code: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code, "type": "error"}}, status=status)
