"""A test server with vLLM's /v1/completions, which samples from a real policy with the in-process decode.

It supports prompts as token ids or text, `n`, `seed` (sample j has seed + j), top_k, repetition_penalty, logit_bias,
allowed_token_ids, stop strings, logprobs, return_token_ids, server-sent events, and adapters loaded at run time. It can
reject or ignore fields, as servers do.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import numpy as np
import torch
from aiohttp import web

from sage_dialog.config import SamplingConfig
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import generator
from sage_dialog.inference.transformers.decoding import decode
from sage_dialog.inference.transformers.engine import TransformersEngine


@dataclass
class CompletionsServer:
    """Server that runs in a thread of its own inside a `with` block.

    Args:
        base: policy served as `name`.
        rejected_fields: fields that it answers with status 422.
        ignored_fields: fields that it accepts and ignores.
        faults: of its first calls: "429", "500", "reset", "half", "early" (a stream that ends in the middle like a
            complete one), "no json", or "" for a response.
        setup_faults: the same, and "401", of its first requests to list models and to load adapters.
        loads_adapters: whether adapters can be loaded at run time.
        latency_s: of each response.
    """

    base: Policy
    name: str
    rejected_fields: Sequence[str] = ()
    ignored_fields: Sequence[str] = ()
    faults: Sequence[str] = ()
    setup_faults: Sequence[str] = ()
    loads_adapters: bool = True
    latency_s: float = 0.0
    max_model_len: int | None = None
    port: int = 0
    calls: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    loaded: list[tuple[str, str]] = field(default_factory=list)
    responses: int = 0
    setup_requests: int = 0

    def __post_init__(self) -> None:
        self._engines = {self.name: (TransformersEngine(self.base, [], seed=0, threads=1), self.base.name)}
        self._decode_lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> CompletionsServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/completions", self._respond)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    def _setup_fault(self, request: web.Request) -> web.Response | None:
        fault = self.setup_faults[self.setup_requests] if self.setup_requests < len(self.setup_faults) else ""
        self.setup_requests += 1
        return self._fault(request, fault)

    def _fault(self, request: web.Request, fault: str) -> web.Response | None:
        if fault.isdigit():
            return web.json_response({"error": {"message": "not now"}}, status=int(fault))
        if fault == "reset":
            request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            request.transport.abort()
            return web.Response()
        return None

    async def _list(self, request: web.Request) -> web.Response:
        if fault := self._setup_fault(request):
            return fault
        models = [{"id": name, "object": "model"} for name in self._engines]
        if self.max_model_len is not None:
            models[0]["max_model_len"] = self.max_model_len
        return web.json_response({"object": "list", "data": models})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if fault := self._setup_fault(request):
            return fault
        if not self.loads_adapters:
            return web.json_response({"detail": "Not Found"}, status=404)
        if name in self._engines:
            message = f"The lora adapter '{name}' has already been loaded. If you want to load it in place, set …"
            return web.json_response({"error": {"message": message}}, status=400)
        adapter = Policy.open(Path(path))
        self._engines[name] = TransformersEngine(self.base, [adapter], seed=0, threads=1), adapter.name
        self.loaded.append((name, path))
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fault = self.faults[len(self.calls)] if len(self.calls) < len(self.faults) else ""
        self.calls.append(body)
        self.headers.append(request.headers.copy())
        await asyncio.sleep(self.latency_s)
        if unknown := [name for name in self.rejected_fields if name in body]:
            return web.json_response({"error": {"message": f"Unexpected fields: {unknown}"}}, status=422)
        if body["model"] not in self._engines:
            return web.json_response({"error": {"message": f"The model {body['model']} does not exist."}}, status=404)
        if faulty := self._fault(request, fault):
            return faulty
        if fault == "no json":
            return web.Response(text='{"choices": [{"te', content_type="application/json")
        completion_body = self.completion(
            {name: value for name, value in body.items() if name not in self.ignored_fields}
        )
        if body.get("stream"):
            return await self._stream(request, completion_body, fault)
        text = json.dumps(completion_body).encode()
        if fault == "half":
            response = web.StreamResponse(headers={"Content-Length": str(len(text))})
            await response.prepare(request)
            await response.write(text[: len(text) // 2])
            request.transport.close()
            return response
        self.responses += 1
        return web.Response(body=text, content_type="application/json")

    async def _stream(self, request: web.Request, completion_body: dict[str, Any], fault: str) -> web.StreamResponse:
        """Stream one token per event, of each choice in turn, then the finish reasons, then the usage."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        choices = completion_body["choices"]
        steps = max(len(choice["pieces"]) for choice in choices)
        pieces: list[dict[str, Any]] = []
        for step in range(steps):
            for choice in choices:
                if step < len(choice["pieces"]):
                    part = {"index": choice["index"], "text": choice["pieces"][step], "finish_reason": None}
                    if choice.get("token_ids") is not None:
                        part["token_ids"] = choice["token_ids"][step : step + 1]
                    if choice.get("logprobs"):
                        logged = choice["logprobs"]["token_logprobs"][step : step + 1]
                        part["logprobs"] = {"token_logprobs": logged}
                    pieces.append({"choices": [part]})
        for choice in choices:
            last = {"index": choice["index"], "text": "", "finish_reason": choice["finish_reason"]}
            pieces.append({"choices": [last | {"stop_reason": choice["stop_reason"]}]})
        pieces.append({"choices": [], "usage": completion_body["usage"]})
        for piece in pieces[: {"half": len(pieces) // 2, "early": 1}.get(fault)]:
            await response.write(f"data: {json.dumps(piece)}\n\n".encode())
        if fault == "half":
            request.transport.close()
            return response
        await response.write(b"data: [DONE]\n\n")
        self.responses += 1
        return response

    def completion(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response of a server without faults."""
        engine, policy = self._engines[body["model"]]
        tokenizer = engine._policies.tokenizer
        prompt = body["prompt"]
        ids = prompt if isinstance(prompt, list) else tokenizer(prompt)["input_ids"]
        number = body.get("n", 1)
        sampling = SamplingConfig.from_base(
            temperature=body["temperature"],
            top_k=body.get("top_k", 10**6),
            repetition_penalty=body.get("repetition_penalty", 1.0),
            max_new_tokens=body["max_tokens"],
        )
        seed = body.get("seed", time.monotonic_ns())
        draws = np.stack([generator(seed + j, "server").random(sampling.max_new_tokens) for j in range(number)])
        end = tokenizer.eos_token_id
        prompt_text = tokenizer.decode(ids, skip_special_tokens=True)

        def text_after_prompt(tokens: list[int]) -> str:
            return tokenizer.decode(ids + tokens, skip_special_tokens=True)[len(prompt_text) :]

        with self._decode_lock, torch.inference_mode():
            engine._switch(policy)
            bias = _Bias(body, engine._model.config.vocab_size)
            (rows,) = decode(engine._model, [ids], draws[None], sampling, end, bias if bias else None)
            choices = []
            for index, row in enumerate(rows):
                tokens = [*row.tokens, *([end] if row.finished else [])]
                finish, stop_string = ("stop" if row.finished else "length"), None
                for position in range(len(tokens)):  # the first occurrence of a stop string ends the text
                    text = tokenizer.decode(tokens[: position + 1])
                    if found := [stop for stop in body.get("stop", ()) if stop in text]:
                        tokens, finish, stop_string = tokens[: position + 1], "stop", found[0]
                        break
                choice: dict[str, Any] = {
                    "index": index,
                    "text": text_after_prompt(tokens),
                    "finish_reason": finish,
                    "stop_reason": stop_string,
                }
                if body.get("return_token_ids"):
                    choice["token_ids"] = tokens
                if body.get("logprobs"):
                    logits = engine._model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1].double()
                    logged = logits.log_softmax(dim=-1)[range(len(tokens)), tokens].tolist()
                    choice["logprobs"] = {"token_logprobs": logged, "tokens": tokens}
                if body.get("stream"):
                    texts = [text_after_prompt(tokens[:k]) for k in range(len(tokens) + 1)]
                    choice["pieces"] = [current[len(previous) :] for previous, current in pairwise(texts)]
                choices.append(choice)
        completion_tokens = sum(len(row.tokens) + row.finished for row in rows)
        return {"choices": choices, "usage": {"prompt_tokens": len(ids), "completion_tokens": completion_tokens}}


class _Bias:
    """`logit_bias` and `allowed_token_ids` as a guide with a single state."""

    def __init__(self, body: Mapping[str, Any], size: int) -> None:
        biases = {int(token): float(bias) for token, bias in (body.get("logit_bias") or {}).items()}
        allowed = body.get("allowed_token_ids")
        self.tokens = list(biases)
        self.weights = list(biases.values())
        self.mask = None
        if allowed is not None:
            self.mask = np.full(size, -math.inf, dtype=np.float32)
            self.mask[allowed] = 0.0
        self.initial_state = self

    def __bool__(self) -> bool:
        return bool(self.tokens) or self.mask is not None

    def boost_factor(self, temperature: float) -> float:
        """A server adds `logit_bias` to the logits as they are."""
        return 1.0

    def next_state(self, position: _Bias, token: int) -> _Bias:
        return self
