"""What self-play, evaluation and chat ask of an engine that samples from policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sage_dialog.parameters import SamplingDials, Steering


@dataclass(frozen=True)
class Prompt:
    """Messages up to the reply. `item` names the reply; with the engine's seed it alone decides the samples."""

    messages: tuple[dict[str, str], ...]
    item: tuple[object, ...]


@dataclass(frozen=True)
class Sample:
    """One sampled reply. `finished` is false where the token limit cut it."""

    text: str
    tokens: int
    finished: bool


class Engine(Protocol):
    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingDials,
        samples: int = 1,
        steering: Steering | None = None,
    ) -> list[list[Sample]]:
        """`samples` replies to each prompt by the named policy.

        Sample j of a prompt is a function of (seed, item, j), whatever else is in the batch. A prompt that
        leaves no room for `max_new_tokens` in the model's context gets an empty list; nothing is truncated.

        Raises:
            ValueError: if the policy is to be steered and writes no blocks, or cannot write what `steering` asks.
        """
        ...
