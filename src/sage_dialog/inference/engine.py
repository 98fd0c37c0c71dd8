"""What self-play, evaluation and chat ask of an engine that samples from policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy


@dataclass(frozen=True)
class Prompt:
    """Messages up to the reply. `item` names the reply; with the engine's seed it alone decides the samples."""

    messages: tuple[dict[str, str], ...]
    item: tuple[object, ...]


class FinishReason(StrEnum):
    """Why a reply ends where it does."""

    STOP = "stop"  # the policy ended it
    LENGTH = "length"  # the limit on tokens cut it


@dataclass(frozen=True)
class Sample:
    """One sampled reply.

    `log_probability` is the natural logarithm of the probability that the policy itself gives the tokens of the reply
    and its end, where it came: at temperature 1, of the whole vocabulary, neither penalised nor steered. None where
    a server does not tell. It is known up to rounding, which the batch decides, and so no part of equality.
    """

    text: str
    tokens: int
    finish: FinishReason
    log_probability: float | None = field(default=None, compare=False)

    @property
    def finished(self) -> bool:
        """Whether the policy ended the reply itself."""
        return self.finish is FinishReason.STOP


class Engine(Protocol):
    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        """What decides its samples beside policies, prompts, sampling and seed: the base with its tokenizer and chat
        template, the versions of libraries, what decides how sums are rounded.

        Unfinished work is kept under a name that holds it, so that it is not mixed with that of another engine.
        """
        ...

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[list[Sample]]:
        """`samples` replies to each prompt by the named policy.

        Sample j of a prompt is a function of (seed, item, j), whatever else is in the batch and whether or not it is
        on_text. A prompt that leaves no room for `max_new_tokens` in the model's context gets an empty list; nothing is
        truncated.

        Args:
            on_text: called with each piece of text of the first sample of the first prompt, as it is written; the pieces
                together are its text. An exception that it raises ends the sampling.

        Raises:
            ValueError: if the policy is to be steered and writes no blocks, or cannot write what `steering` asks.
        """
        ...


OpenEngine = Callable[[Policy, Sequence[Policy], int, int | None], Engine]
"""Opens an engine for (base, policies, seed, threads); null leaves the number of threads to the libraries."""
