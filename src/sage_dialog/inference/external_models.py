"""External models behind a chat API, evaluated beside the policies and never trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.seeds import derived_seed
from sage_dialog.inference.engine import MAX_SEED, ROLE, Engine, FinishReason, OnText, Prompt, Sample
from sage_dialog.llm.event_loop import run_streaming
from sage_dialog.llm.requests import NO_ANSWER, FailureReason, RequestFailedError, RequestRejectedError

if TYPE_CHECKING:
    from sage_dialog.llm.live_client import LiveClient


@dataclass(frozen=True)
class ExternalModel:
    """A model behind a chat API, without state and action blocks.

    Attributes:
        client: its endpoint's `sampling` decides how the model is sampled; the policies' parameters do not apply.
        system_prompt: None takes the agent's, an empty one sends none.
    """

    name: str
    client: LiveClient
    system_prompt: str | None = None

    @property
    def model(self) -> str:
        """The name of the model on its servers."""
        return self.client.endpoint.model

    def identity(self) -> dict[str, Any]:
        """Return the model and its sampling as JSON-serializable values, without credentials."""
        return {"external": self.name, "model": self.model, "sampling": dict(self.client.endpoint.sampling)}


class ExternalModelEngine:
    """An `Engine` for an external model, and for the policies of another engine such as the simulated user.

    Each sample is requested once: its response is in the client's response cache.

    Raises:
        RequestFailedError, RequestRejectedError: by `sample`, where a server fails for good.
        CapReachedError: by `sample`, where a cap is reached.
    """

    def __init__(self, model: ExternalModel, others: Engine, seed: int) -> None:
        self._model = model
        self._others = others
        self._seed = seed
        self._streams = True

    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {"external": self._model.identity(), "others": dict(self._others.fingerprint_inputs)}

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """Sample as `Engine.sample` does. A refused or empty reply is an empty sample."""
        if policy != self._model.name:
            return self._others.sample(policy, prompts, sampling, samples, steering, on_text)
        if steering:
            raise ValueError(f"{policy} cannot be steered: it writes no state and action blocks")
        client = self._model.client
        client.budget.check_caps(ROLE, client.endpoint.model, client.max_completion_tokens)
        requests = [(prompt, j) for prompt in prompts for j in range(samples)]
        replies = []
        if on_text is not None and requests:
            replies.append(run_streaming(partial(self._stream, requests.pop(0)), on_text))
        replies += client.map(self._reply, requests)
        by_prompt = [replies[start : start + samples] for start in range(0, len(replies), samples)]
        return [[reply for reply in of_prompt if reply is not None] for of_prompt in by_prompt]

    async def _stream(self, request: tuple[Prompt, int], on_text: OnText) -> Sample | None:
        """Return a reply as `_reply` does; `on_text` gets its pieces."""
        emitted = ""

        def emit(text: str) -> None:
            nonlocal emitted
            if len(text) > len(emitted) and text.startswith(emitted):  # not of a repeated request with another reply
                on_text(text[len(emitted) :])
                emitted = text

        try:
            reply = await self._reply(request, emit if self._streams else None)
        except RequestRejectedError:  # perhaps of a server that does not stream
            reply = await self._reply(request)
            self._streams = False
        emit(reply.text if reply is not None else "")
        return reply

    async def _reply(self, request: tuple[Prompt, int], on_chunk: Callable[[str], None] | None = None) -> Sample | None:
        """Return None where the prompt leaves no room in the model's context.

        Raises:
            RequestRejectedError: if the server rejects the request, which may be for its stream.
        """
        prompt, j = request
        seed = derived_seed(self._seed, "sample", *prompt.item, j) % MAX_SEED
        try:
            client = self._model.client
            asked = replace(client.chat_request(ROLE, prompt.messages, sample=seed), on_chunk=on_chunk)
            reply = await client.request(asked)
        except RequestFailedError as error:
            if error.reason is FailureReason.TOO_LONG:
                return None
            if error.reason is FailureReason.TRUNCATED and error.response_text:
                return Sample(error.response_text, 0, FinishReason.LENGTH)
            if error.reason is FailureReason.REJECTED and on_chunk is not None:
                raise RequestRejectedError(error.detail) from None
            if error.reason in NO_ANSWER:
                return Sample("", 0, FinishReason.STOP)
            raise
        return Sample(reply.text, reply.completion_tokens, FinishReason.STOP)
