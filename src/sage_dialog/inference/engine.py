"""The interface of engines, which sample replies from policies for self-play, evaluation and chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.policies import Policy

ROLE = "policy"
"""The role of policies and external models in the budget of requests."""

MAX_SEED = 2**31
"""Upper bound of the seeds that every server accepts."""

OnText = Callable[[str], None]
"""A callback for the pieces of a streamed text."""


@dataclass(frozen=True)
class Prompt:
    """A prompt: chat messages up to the reply.

    Attributes:
        item: the name of the reply. With the engine's seed it alone decides the samples.
    """

    messages: tuple[dict[str, str], ...]
    item: tuple[object, ...]


class FinishReason(StrEnum):
    """Why a reply ends."""

    STOP = "stop"  # the policy wrote the end token
    LENGTH = "length"  # the token limit


@dataclass(frozen=True)
class Sample:
    """One sampled reply.

    Attributes:
        tokens: their number.
        log_probability: natural logarithm of the reply's probability under the policy itself, end token included where
            it was drawn: at temperature 1, over the whole vocabulary, without penalty or steering. None where a server
            does not return it. Its rounding depends on the batch, so it is no part of equality.
    """

    text: str
    tokens: int
    finish_reason: FinishReason
    log_probability: float | None = field(default=None, compare=False)

    @property
    def finished(self) -> bool:
        """Whether the policy ended the reply itself."""
        return self.finish_reason is FinishReason.STOP


class Engine(Protocol):
    @property
    def fingerprint_inputs(self) -> Mapping[str, object]:
        """Everything that decides the samples beside policies, prompts, sampling and seed.

        These are the base with its tokenizer and chat template, library versions, and what decides rounding. Unfinished
        work is stored under a fingerprint of them, so that it is never mixed with that of another engine.
        """
        ...

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        samples: int = 1,
        steering: Steering | None = None,
        on_text: OnText | None = None,
    ) -> list[list[Sample]]:
        """Return `samples` replies of the named policy to each prompt.

        Sample j of a prompt is a function of (seed, item, j), independent of the rest of the batch and of streaming. A
        prompt that leaves no room for `max_new_tokens` in the model's context gets an empty list; nothing is truncated.

        Args:
            on_text: called with each piece of text of the first sample of the first prompt as it is generated. The
                pieces concatenate to its text. An exception that it raises ends the sampling.

        Raises:
            ValueError: if the policy cannot follow `steering`: it writes no blocks, or cannot write a value.
        """
        ...


class PolicyEngine(Engine, Protocol):
    """An engine that renders and tokenizes the prompts itself."""

    @property
    def window(self) -> int:
        """Number of tokens of prompt and reply together."""
        ...

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt.

        Raises:
            jinja2.TemplateError: if the chat template refuses the messages.
        """
        ...


OpenEngine = Callable[[Policy, Sequence[Policy], int, int | None], PolicyEngine]
"""Opens an engine for (base, policies, seed, threads); None leaves the number of threads to the libraries."""
