"""Models of others, asked over a chat API, in the place of a policy: evaluated beside ours, never trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.seeds import derived_seed
from sage_dialog.inference.engine import Engine, FinishReason, Prompt, Sample
from sage_dialog.llm.requests import UNUSABLE_RESPONSES, RequestFailedError, FailureReason

if TYPE_CHECKING:
    from sage_dialog.llm.live_client import LiveClient

ROLE = "policy"
_SEEDS = 2**31  # that every server takes


@dataclass(frozen=True)
class ExternalModel:
    """A model behind a chat API. It writes no state and action blocks.

    Its endpoint's `sampling` says how it is sampled: the parameters of policies are for policies. `system_prompt` is its system
    message; None takes the agent's own, an empty one leaves it out.
    """

    name: str
    client: LiveClient
    system_prompt: str | None = None

    @property
    def model(self) -> str:
        """As its servers know it."""
        return self.client.endpoint.model

    def identity(self) -> dict[str, Any]:
        """Which model it is, and how it is asked; what JSON can write, and no key."""
        return {"outside": self.name, "model": self.model, "sampling": dict(self.client.endpoint.sampling)}


class ExternalModelEngine:
    """An `Engine` for an outside model and the policies of another engine, such as the simulated user.

    Sample j of a prompt is asked for once: its reply is in the client's response cache. What `sample` raises beside what
    `Engine` says: `RequestFailedError` where a server fails for good, `RequestRejectedError` and `CapReachedError`.
    """

    def __init__(self, model: ExternalModel, others: Engine, seed: int) -> None:
        self._model = model
        self._others = others
        self._seed = seed

    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        """See `Engine.fingerprint_inputs`."""
        return {"outside": self._model.identity(), "others": dict(self._others.fingerprint_inputs)}

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[list[Sample]]:
        """See `Engine.sample`. A reply that the model refuses, or leaves empty, is an empty sample."""
        if policy != self._model.name:
            return self._others.sample(policy, prompts, sampling, samples, steering, on_text)
        if steering:
            raise ValueError(f"{policy} cannot be steered: it writes no state and action blocks")
        client = self._model.client
        client.budget.check_caps(ROLE, client.endpoint.model, client.max_completion_tokens)
        asked = [(prompt, j) for prompt in prompts for j in range(samples)]
        replies = list(client.map(self._reply, asked))
        by_prompt = [replies[start : start + samples] for start in range(0, len(replies), samples)]
        return [[reply for reply in of_prompt if reply is not None] for of_prompt in by_prompt]

    async def _reply(self, asked: tuple[Prompt, int]) -> Sample | None:
        """None where the prompt leaves no room in the model's context."""
        prompt, j = asked
        draw = derived_seed(self._seed, "sample", *prompt.item, j) % _SEEDS
        try:
            reply = await self._model.client.request(
                self._model.client.chat_request(ROLE, prompt.messages, sample=draw)
            )
        except RequestFailedError as error:
            if error.reason is FailureReason.TOO_LONG:
                return None
            if error.reason is FailureReason.TRUNCATED and error.response_text:
                return Sample(error.response_text, 0, FinishReason.LENGTH)
            if error.reason in UNUSABLE_RESPONSES or error.reason is FailureReason.PROMPT_FILTERED:
                return Sample("", 0, FinishReason.STOP)
            raise
        return Sample(reply.text, reply.completion_tokens, FinishReason.STOP)
