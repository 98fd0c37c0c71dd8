"""Sampling over HTTP: raw completions of servers such as vLLM that have the policies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy, identity
from sage_dialog.core.seeds import derived_seed
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.inference.vllm.served_policies import ServedPolicies, revision
from sage_dialog.inference.vllm.steered_completions import Completion, processor_arguments, steered_sample
from sage_dialog.inference.vllm.streaming import Listener, plain_text
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.completions import CompletionRequest, Continuation, continuations
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import RequestRejectedError

logger = logging.getLogger(__name__)

ROLE = "policy"
LIBRARIES = ("transformers", "tokenizers")  # prompts are rendered and tokenized here, and replies decoded
_SEEDS = 2**31  # that every server takes

OnText = Callable[[str], None]


class Takes(BaseModel):
    """What the servers take of a request. The defaults are vLLM's; what is false or null is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_prompts: bool = Field(True, description="prompts as token ids; else as text, tokenized there")
    token_ids: bool = Field(True, description="`return_token_ids` and `stop_token_ids`; steering needs them")
    n: bool = Field(True, description="several samples of a prompt at once; else a request for each")
    seed: bool = Field(True, description="a seed; without one another call gives another sample")
    top_k: str | None = Field("top_k", description="name of the field; null samples from the whole vocabulary")
    repetition_penalty: str | None = Field(
        "repetition_penalty", description="name of the field; null penalises nothing"
    )
    logprobs: bool = Field(True, description="log-probabilities, of the model's own distribution")
    steering: bool = Field(False, description="the servers run the logits processor of `vllm_steering`")


class Arguments(BaseModel):
    """What an entry of the catalog may say in `args`; see `CompletionsEngine`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, str] | None = None
    takes: Takes | None = None
    window: int | None = Field(None, gt=0)


@dataclass(frozen=True)
class _Work:
    """Samples first, first + 1, … of one prompt, `number` of them."""

    index: int
    prompt: Prompt
    tokens: list[int]
    first: int
    number: int


class CompletionsEngine:
    """An `Engine` over OpenAI-compatible servers, all of which have the same base.

    The prompt is rendered and tokenized here, by the base's own template. Every reply is in the client's response cache
    before it is used, and asked for once. What `sample` raises beside what `Engine` says: `RequestRejectedError` where a
    server does not have a policy or does not take a request, `RequestFailedError` where it fails for good, and
    `CapReachedError`.

    Args:
        threads: of no use here.
        client: asks the servers. Its endpoint's `sampling` holds further fields of the requests' bodies.
        names: by policy, its name on the servers. Others are called `<policy>-<revision>`, and adapters among them
            are loaded at run time (vLLM) from their folder, which must be the servers', too.
        takes: what the servers take, as `Takes` or its fields.
        window: tokens of prompt and reply together; null takes the window of the base's config.json.

    Raises:
        ValueError: if an argument is not of its form, `base` is an adapter, two policies share a name, or an
            adapter's card names another base revision than that of `base`.
    """

    arguments = Arguments

    def __init__(
        self,
        base: Policy,
        policies: Sequence[Policy],
        seed: int,
        threads: int | None = None,
        *,
        client: LiveClient,
        names: Mapping[str, str] | None = None,
        takes: Takes | Mapping[str, Any] | None = None,
        window: int | None = None,
    ) -> None:
        given = Arguments.model_validate({"names": names, "takes": takes, "window": window})
        self._policies = PolicySet(base, policies)
        self._seed = seed
        self._client = client
        self._takes = given.takes or Takes()
        self._names = given.names or {}
        self._window = given.window or self._policies.window
        self._serving = ServedPolicies(client.servers, self._policies, self._names, self._window)
        self._warned: set[str] = set()

    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        """See `Engine.fingerprint_inputs`."""
        return {
            "engine": "completions",
            "base": identity(self._policies.base),
            "takes": self._takes.model_dump(),
            "names": self._names,
            "sampling": dict(self._client.endpoint.sampling),
            "window": self._window,
            **{library: version(library) for library in LIBRARIES},
        }

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """See `Engine.sample`.

        Raises:
            KeyError: if the engine does not have a policy of that name.
            ValueError: if a cap on money cannot be kept, because `llm.prices` has no price for the policy.
            RequestRejectedError: if a server does not have it, or does not take a request; see also the class.
        """
        reply = _Replies(self, policy, sampling, steering if steering else None).reply
        tokens = [self._policies.tokens(prompt) for prompt in prompts]
        room = self._window - sampling.max_new_tokens
        at_once = samples if self._takes.n and (not steering or self._takes.steering) else 1
        work = [
            _Work(index, prompts[index], tokens[index], first, min(at_once, samples - first))
            for index in range(len(prompts))
            if len(tokens[index]) <= room
            for first in range(0, samples, at_once)
        ]
        replies: list[list[Sample]] = [[] for _ in prompts]
        if on_text is not None and work and work[0].index == 0:
            replies[0] += _on_text(partial(reply, work.pop(0)), on_text)
        for done, got in zip(work, self._client.map(reply, work), strict=True):
            replies[done.index] += got
        return replies

    def _warn_of(self, sampling: SamplingConfig) -> None:
        wanted = {"top_k": True, "repetition_penalty": sampling.repetition_penalty != 1.0}
        for name, matters in wanted.items():
            if matters and getattr(self._takes, name) is None and name not in self._warned:
                self._warned.add(name)
                logger.warning("the servers take no %s (the engine's `takes`): policies are sampled without", name)


class _Replies:
    """Asks for the samples of one policy, at one sampling and steering."""

    def __init__(
        self, engine: CompletionsEngine, policy: str, sampling: SamplingConfig, steering: Steering | None
    ) -> None:
        self._policies, self._takes, self._client = engine._policies, engine._takes, engine._client
        self._serving, self._seed = engine._serving, engine._seed
        self._policy = policy
        self._name = engine._serving.name(policy)
        budget = self._client.budget
        budget.share_price(policy, self._name)
        budget.check_caps(ROLE, policy, sampling.max_new_tokens)
        self._revision = revision(engine._policies.policy(policy))
        self._sampling = sampling
        self._tokenizer = engine._policies.tokenizer
        self._end: int = self._tokenizer.eos_token_id
        self._guide = None if steering is None else engine._policies.guide(policy, steering)
        self._processor = None
        if steering is not None and self._takes.steering:
            self._processor = processor_arguments(steering)
        elif steering is not None and not (self._takes.token_ids and self._takes.token_prompts):
            raise ValueError(
                "these servers cannot be steered: it takes prompts and replies as token ids, and by the engine's "
                "`takes` they have `token_prompts` or `token_ids` false. vLLM has both"
            )
        engine._warn_of(sampling)

    async def reply(self, work: _Work, on_text: OnText | None = None) -> list[Sample]:
        """The samples of one piece of work."""

        def seed(*request: int) -> int:
            return derived_seed(self._seed, "sample", *work.prompt.item, work.first, *request) % _SEEDS

        if self._guide is not None and self._processor is None:
            sample = await steered_sample(
                partial(self._complete, len(work.tokens)),
                self._guide,
                work.tokens,
                self._sampling,
                seed,
                self._policies.text,
                on_text,
            )
            return [sample]
        body = self._body(seed(), self._sampling.max_new_tokens)
        if self._processor is not None:
            body["vllm_xargs"] = self._processor
        listener = None if on_text is None else Listener(self._tokenizer, on_text)
        written = await self._ask(self._prompt(work), body, seed(), work.number, listener)
        return [self._sample(one) for one in written]

    async def _ask(
        self, prompt: tuple[int, ...] | str, body: dict[str, Any], draw: int, n: int, listener: Listener | None
    ) -> list[Continuation]:
        hears = None if listener is None else listener.read
        request = CompletionRequest(ROLE, self._name, prompt, body, n, draw, self._revision, hears)
        if request not in self._client.response_cache:
            await self._serving.ready(self._policy)
        try:
            written = continuations(await self._client.request(request))
        except RequestRejectedError as error:
            if error.status not in (None, 400, 422):  # it is not the request's form that it refuses
                raise
            told = f"{error} What a server does not take is left out by the engine's `takes`."
            raise RequestRejectedError(told, error.status) from None
        if listener is not None:
            listener.end(written[0])
        return written

    async def _complete(
        self,
        behind: int,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        seed: int,
        stop: str | None,
        logit_bias: Mapping[int, float],
        allowed: Sequence[int] | None,
        on_text: OnText | None,
    ) -> Completion:
        """See `Completer`; the reply begins `behind` so many tokens."""
        body = self._body(seed, max_tokens, logprobs=False)
        body |= {"stop": [stop]} if stop else {}
        body |= {"logit_bias": {str(token): bias for token, bias in logit_bias.items()}} if logit_bias else {}
        body |= {"allowed_token_ids": list(allowed)} if allowed is not None else {}
        listener = None if on_text is None else Listener(self._tokenizer, on_text, prompt[behind:])
        (written,) = await self._ask(tuple(prompt), body, seed, 1, listener)
        drawn = self._drawn(written)
        if written.finish == "length":
            return Completion(drawn, "length")
        at_text = isinstance(written.stop_reason, str)
        return Completion(drawn, "stop" if at_text else "end")

    def _body(self, seed: int, max_tokens: int, logprobs: bool = True) -> dict[str, Any]:
        takes, sampling = self._takes, self._sampling
        body = {**self._client.endpoint.sampling, "max_tokens": max_tokens, "temperature": sampling.temperature}
        if takes.top_k:
            body[takes.top_k] = sampling.top_k
        if takes.repetition_penalty:
            body[takes.repetition_penalty] = sampling.repetition_penalty
        if takes.seed:
            body["seed"] = seed
        if takes.logprobs and logprobs:
            body["logprobs"] = 1  # llama.cpp has none at 0
        if takes.token_ids:
            body |= {"return_token_ids": True, "stop_token_ids": [self._end]}
        return body

    def _prompt(self, work: _Work) -> tuple[int, ...] | str:
        return tuple(work.tokens) if self._takes.token_prompts else self._policies.as_text(work.prompt)

    def _drawn(self, written: Continuation) -> list[int]:
        """The tokens of a reply, its end not among them."""
        tokens = written.token_ids or []
        return tokens[:-1] if tokens[-1:] == [self._end] else tokens

    def _sample(self, written: Continuation) -> Sample:
        if written.token_ids is None:
            text = plain_text(self._tokenizer, written.text)
            number = len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            tokens = self._drawn(written)
            text, number = self._policies.text(tokens), len(tokens)
        return Sample(text, number, FinishReason(written.finish), written.log_probability)


def _on_text(reply: Callable[..., Any], on_text: OnText) -> list[Sample]:
    """What `reply` gives, while its pieces are on_text in this thread."""

    async def begin() -> tuple[asyncio.Task[list[Sample]], asyncio.Queue[str | None]]:
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        task = asyncio.create_task(reply(on_text=pieces.put_nowait))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        return task, pieces

    async def end(task: asyncio.Task[list[Sample]]) -> list[Sample]:
        return await task

    async def stop(task: asyncio.Task[list[Sample]]) -> None:
        task.cancel()
        await asyncio.wait([task])

    task, pieces = loop.run(begin())
    try:
        while (piece := loop.run(pieces.get())) is not None:
            on_text(piece)
        return loop.run(end(task))
    except BaseException:
        loop.run(stop(task))
        raise
