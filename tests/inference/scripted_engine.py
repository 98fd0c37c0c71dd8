"""An engine without a model, for tests: what it says is a function of what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.engine import FinishReason, Prompt, Sample

Reply = Callable[[str, Prompt, int], "str | Sample | None"]


@dataclass
class ScriptedEngine:
    """Sample j of a prompt is `reply(policy, prompt, j)`; None where the context is full. Streams two pieces."""

    reply: Reply
    refuses: str | None = None  # to be steered, and why
    asked: list[tuple[str, Prompt, Steering | None]] = field(default_factory=list)
    fingerprint_inputs: Mapping[str, object] = field(default_factory=dict)

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[list[Sample]]:
        """See `Engine.sample`."""
        if steering and self.refuses:
            raise ValueError(self.refuses)
        self.asked += [(policy, prompt, steering) for prompt in prompts]
        replies = [[self._sample(policy, prompt, j) for j in range(samples)] for prompt in prompts]
        if on_text is not None:
            text = replies[0][0].text if replies[0][0] else ""
            on_text(text[:20])
            on_text(text[20:])
        return [[each for each in drawn if each is not None] for drawn in replies]

    def _sample(self, policy: str, prompt: Prompt, j: int) -> Sample | None:
        said = self.reply(policy, prompt, j)
        return Sample(said, len(said.split()), FinishReason.STOP) if isinstance(said, str) else said

    def prompts(self, policy: str) -> list[tuple[dict[str, str], ...]]:
        """The messages of each prompt that a policy was asked, in order."""
        return [prompt.messages for asked, prompt, _ in self.asked if asked == policy]

    def steered(self, policy: str) -> list[Steering | None]:
        """What a policy was steered to at each prompt, in order."""
        return [steering for asked, _, steering in self.asked if asked == policy]
