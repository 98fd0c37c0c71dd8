"""External models behind a chat API, to talk with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.engine import OnText, Prompt, Sample
from sage_dialog.inference.external_models import ExternalModel, ExternalModelEngine


class ChatModelEngine:
    """A `PolicyEngine` for an external model alone, whose tokenizer is not known here."""

    window = 2**30

    def __init__(self, model: ExternalModel, seed: int) -> None:
        self._engine = ExternalModelEngine(model, self, seed)

    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {}

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Return 0: only the server counts tokens."""
        return 0

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """Sample as `Engine.sample` does; the model's own sampling applies.

        Raises:
            ValueError: if the conversation does not fit the model's context.
        """
        sampled = self._engine.sample(policy, prompts, sampling, samples, steering, on_text)
        if not all(sampled):
            raise ValueError(f"The conversation does not fit the context of {policy}.")
        return sampled
