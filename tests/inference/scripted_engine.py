"""An engine without a model for tests: a reply is a function of policy, prompt and sample number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.engine import FinishReason, Prompt, Sample

Reply = Callable[[str, Prompt, int], "str | Sample | None"]


@dataclass
class ScriptedEngine:
    """Engine whose sample j of a prompt is `reply(policy, prompt, j)`, None for a full context; streams two pieces."""

    reply: Reply
    steering_error: str | None = None  # raised when it is steered
    requests: list[tuple[str, Prompt, Steering | None]] = field(default_factory=list)
    fingerprint_inputs: Mapping[str, object] = field(default_factory=dict)
    window: int = 1_000_000

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Return the number of words."""
        return sum(len(message["content"].split()) for message in prompt.messages)

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[list[Sample]]:
        """Return the scripted samples and record the requests."""
        if steering and self.steering_error:
            raise ValueError(self.steering_error)
        self.requests += [(policy, prompt, steering) for prompt in prompts]
        replies = [[self._sample(policy, prompt, j) for j in range(samples)] for prompt in prompts]
        if on_text is not None:
            text = replies[0][0].text if replies[0][0] else ""
            on_text(text[:20])
            on_text(text[20:])
        return [[each for each in drawn if each is not None] for drawn in replies]

    def _sample(self, policy: str, prompt: Prompt, j: int) -> Sample | None:
        reply = self.reply(policy, prompt, j)
        return Sample(reply, len(reply.split()), FinishReason.STOP) if isinstance(reply, str) else reply

    def prompts(self, policy: str) -> list[tuple[dict[str, str], ...]]:
        """Return the messages of each prompt to a policy, in order."""
        return [prompt.messages for requested, prompt, _ in self.requests if requested == policy]

    def steered(self, policy: str) -> list[Steering | None]:
        """Return the steering of each prompt to a policy, in order."""
        return [steering for requested, _, steering in self.requests if requested == policy]
