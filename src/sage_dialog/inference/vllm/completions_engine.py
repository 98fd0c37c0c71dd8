"""The engine over HTTP: raw completions of servers such as vLLM."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, Field

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy, identity
from sage_dialog.core.seeds import derived_seed
from sage_dialog.inference.engine import MAX_SEED, ROLE, FinishReason, OnText, Prompt, Sample
from sage_dialog.inference.policy_set import PolicySet
from sage_dialog.inference.vllm.served_policies import ServedPolicies, revision
from sage_dialog.inference.vllm.steered_completions import Completion, processor_arguments, steered_sample
from sage_dialog.inference.vllm.streaming import StreamedReply, plain_text
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.completions import CompletionRequest, Continuation, continuations
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import RequestRejectedError
from sage_dialog.sac import Unparsed, parse

logger = logging.getLogger(__name__)

LIBRARIES = ("transformers", "tokenizers")  # prompts are rendered and tokenized here, and replies decoded


class ServerFeatures(BaseModel, frozen=True, extra="forbid"):
    """The request fields that the servers support. The defaults are vLLM's; false and null leave a field out."""

    token_prompts: bool = Field(True, description="prompts as token ids; else as text, tokenized by the server")
    token_ids: bool = Field(True, description="`return_token_ids` and `stop_token_ids`; steering needs them")
    n: bool = Field(True, description="several samples per request; else one request for each")
    seed: bool = Field(True, description="a seed; without one a repeated call gives another sample")
    top_k: str | None = Field("top_k", description="name of the field; null samples from the whole vocabulary")
    repetition_penalty: str | None = Field("repetition_penalty", description="name of the field; null: no penalty")
    logprobs: bool = Field(True, description="log-probabilities under the model's own distribution")
    structured_outputs: bool = Field(True, description="vLLM's field of that name, with a regular expression")
    steering: bool = Field(False, description="the servers run the logits processor of `logits_processor`")


class Arguments(BaseModel, frozen=True, extra="forbid"):
    """The `args` of the catalog entry; `CompletionsEngine` describes them."""

    names: dict[str, str] | None = None
    supports: ServerFeatures | None = None
    window: int | None = Field(None, gt=0)


@dataclass(frozen=True)
class _Job:
    """Samples first, first + 1, … of one prompt, `number` of them."""

    index: int
    prompt: Prompt
    tokens: list[int]
    first: int
    number: int


class CompletionsEngine:
    """An `Engine` over OpenAI-compatible servers with the same base.

    Prompts are rendered and tokenized here by the base's own template. Each sample is requested once: its response is
    in the client's response cache before it is used.

    Args:
        threads: unused.
        client: sends the requests. Its endpoint's `sampling` has further fields of the request bodies.
        names: by policy, its name on the servers. Others are called `<policy>-<revision>`, and adapters among them
            are loaded at run time (vLLM) from their folder, which the servers must be able to read.
        supports: the request fields that the servers support, as `ServerFeatures` or its fields.
        window: tokens of prompt and reply together; None takes the window of the base's config.json.

    Raises:
        ValueError: if an argument is invalid, or the policies do not belong together (`PolicySet`).
        RequestRejectedError: by `sample`, where a server lacks a policy or does not accept a request.
        RequestFailedError: by `sample`, where a server fails for good.
        CapReachedError: by `sample`, where a cap is reached.
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
        supports: ServerFeatures | Mapping[str, Any] | None = None,
        window: int | None = None,
    ) -> None:
        arguments = Arguments.model_validate({"names": names, "supports": supports, "window": window})
        self._policies = PolicySet(base, policies)
        self._seed = seed
        self._client = client
        self._supports = arguments.supports or ServerFeatures()
        self._names = arguments.names or {}
        self._window = arguments.window or self._policies.window
        self._served = ServedPolicies(
            client.servers, self._policies, self._names, self._window, self._supports.seed, self._supports.steering
        )
        self._warned: set[str] = set()

    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {
            "engine": "completions",
            "base": identity(self._policies.base),
            "supports": self._supports.model_dump(),
            "names": self._names,
            "sampling": dict(self._client.endpoint.sampling),
            "window": self._window,
            **{library: version(library) for library in LIBRARIES},
        }

    @property
    def window(self) -> int:
        return self._window

    def prompt_tokens(self, prompt: Prompt) -> int:
        return len(self._policies.tokens(prompt))

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """Sample as `Engine.sample` does."""
        sampler = _Sampler(self, policy, sampling, steering or None)
        reply = sampler.reply
        tokens = [self._policies.tokens(prompt) for prompt in prompts]
        room = self._window - sampling.max_new_tokens
        per_request = samples if self._supports.n and not sampler.field_by_field else 1
        jobs = [
            _Job(index, prompts[index], tokens[index], first, per_request)
            for index in range(len(prompts))
            if len(tokens[index]) <= room
            for first in range(0, samples, per_request)
        ]
        replies: list[list[Sample]] = [[] for _ in prompts]
        if on_text is not None and jobs and jobs[0].index == 0:
            replies[0] += loop.run_streaming(partial(reply, jobs.pop(0)), on_text)
        for job, sampled in zip(jobs, self._client.map(reply, jobs), strict=True):
            replies[job.index] += sampled
        return replies


class _Sampler:
    """Requests the samples of one policy with one sampling and steering."""

    def __init__(
        self, engine: CompletionsEngine, policy: str, sampling: SamplingConfig, steering: Steering | None
    ) -> None:
        self._policies, self._supports, self._client = engine._policies, engine._supports, engine._client
        self._served, self._seed = engine._served, engine._seed
        self._policy = policy
        self._name = engine._served.name(policy)
        budget = self._client.budget
        budget.share_price(policy, self._name)
        budget.check_caps(ROLE, policy, sampling.max_new_tokens)
        self._revision = revision(engine._policies.policy(policy))
        self._sampling = sampling
        self._tokenizer = engine._policies.tokenizer
        self._end: int = self._tokenizer.eos_token_id
        self._guide = engine._policies.guide(policy, steering, sampling)
        self._guiding: dict[str, Any] = {}  # fields by which the server itself steers or holds the form
        if self._guide is not None and self._supports.steering:
            self._guiding = {"vllm_xargs": processor_arguments(steering, sampling.limits)}
        elif self._guide is not None and steering is None and self._supports.structured_outputs:
            self._guiding = {"structured_outputs": {"regex": engine._policies.reply_pattern(sampling)}}
        elif self._guide is not None and not (self._supports.token_ids and self._supports.token_prompts):
            what, way = ("steered", "") if steering else ("made to hold the form", ", or `structured_outputs`")
            raise ValueError(
                f"these servers cannot be {what}: this needs prompts and replies as token ids{way}, and the engine's "
                "`supports` sets `token_prompts` or `token_ids` to false. vLLM has all of them"
            )
        for name, wanted in {"top_k": True, "repetition_penalty": sampling.repetition_penalty != 1.0}.items():
            if wanted and getattr(self._supports, name) is None and name not in engine._warned:
                engine._warned.add(name)
                logger.warning("the servers do not support %s (the engine's `supports`); sampling without it", name)
        if not self._supports.seed and "seed" not in engine._warned:
            engine._warned.add("seed")
            logger.warning(
                "the servers take no seed (the engine's `supports`): a request that is sent again gives other samples, "
                "and only the response cache repeats them"
            )

    @property
    def field_by_field(self) -> bool:
        """Whether a reply takes several requests, which this process guides."""
        return self._guide is not None and not self._guiding

    async def reply(self, job: _Job, on_text: OnText | None = None) -> list[Sample]:
        """Return the samples of a job."""

        def seed(*request: int) -> int:
            return derived_seed(self._seed, "sample", *job.prompt.item, job.first, *request) % MAX_SEED

        if self._guide is not None and self.field_by_field:
            complete, decode = partial(self._complete, len(job.tokens)), self._policies.text
            return [await steered_sample(complete, self._guide, job.tokens, self._sampling, seed, decode, on_text)]
        # vLLM takes log-probabilities after the mask of structured outputs, so they are not the policy's own.
        own = "structured_outputs" not in self._guiding
        body = self._body(seed(), self._sampling.max_new_tokens, logprobs=own) | self._guiding
        prompt = tuple(job.tokens) if self._supports.token_prompts else self._policies.as_text(job.prompt)
        stream = None if on_text is None else StreamedReply(self._tokenizer, on_text)
        samples = [self._sample(reply) for reply in await self._request(prompt, body, seed(), job.number, stream)]
        if not own and any(sample.finished and isinstance(parse(sample.text), Unparsed) for sample in samples):
            raise RequestRejectedError(
                f"{self._name} finished a reply whose blocks do not parse, so the servers ignore `structured_outputs`. "
                "Set it to false in the engine's `supports`; the form is then held field by field"
            )
        return samples

    async def _request(
        self, prompt: tuple[int, ...] | str, body: dict[str, Any], seed: int, n: int, stream: StreamedReply | None
    ) -> list[Continuation]:
        update = None if stream is None else stream.update
        request = CompletionRequest(ROLE, self._name, prompt, body, n, seed, self._revision, update)
        if request not in self._client.response_cache:
            await self._served.ensure_loaded(self._policy)
        try:
            replies = continuations(await self._client.request(request))
        except RequestRejectedError as error:
            if error.status not in (None, 400, 422):  # not because of the request's fields
                raise
            message = f"{error} Set unsupported fields to false or null in the engine's `supports`."
            raise RequestRejectedError(message, error.status) from None
        if stream is not None:
            stream.end(replies[0])
        return replies

    async def _complete(
        self,
        prompt_length: int,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        seed: int,
        stop: str | None,
        logit_bias: Mapping[int, float],
        allowed: Sequence[int] | None,
        on_text: OnText | None,
    ) -> Completion:
        """Return a continuation for `steered_sample`; the reply begins after `prompt_length` tokens."""
        body = self._body(seed, max_tokens, logprobs=False) | ({"stop": [stop]} if stop else {})
        body |= {"logit_bias": {str(token): bias for token, bias in logit_bias.items()}} if logit_bias else {}
        body |= {"allowed_token_ids": list(allowed)} if allowed is not None else {}
        stream = None if on_text is None else StreamedReply(self._tokenizer, on_text, prompt[prompt_length:])
        (reply,) = await self._request(tuple(prompt), body, seed, 1, stream)
        drawn = self._without_end(reply.token_ids or [])
        if reply.finish == "length":
            return Completion(drawn, "length")
        return Completion(drawn, "stop" if isinstance(reply.stop_reason, str) else "end")

    def _body(self, seed: int, max_tokens: int, logprobs: bool = True) -> dict[str, Any]:
        supports, sampling = self._supports, self._sampling
        body = {**self._client.endpoint.sampling, "max_tokens": max_tokens, "temperature": sampling.temperature}
        if supports.top_k:
            body[supports.top_k] = sampling.top_k
        if supports.repetition_penalty:
            body[supports.repetition_penalty] = sampling.repetition_penalty
        if supports.seed:
            body["seed"] = seed
        if supports.logprobs and logprobs:
            body["logprobs"] = 1  # llama.cpp returns none for 0
        if supports.token_ids:
            body |= {"return_token_ids": True, "stop_token_ids": [self._end]}
        return body

    def _without_end(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens[-1:] == [self._end] else tokens

    def _sample(self, reply: Continuation) -> Sample:
        if reply.token_ids is None:
            text = plain_text(self._tokenizer, reply.text)
            number = len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            tokens = self._without_end(reply.token_ids)
            text, number = self._policies.text(tokens), len(tokens)
        return Sample(text, number, FinishReason(reply.finish), reply.log_probability)
