"""Steering (paper §3.7) over a completions server without support for it: one request for each piece of the reply.

Where nothing is steered the server writes on; for a boosted keyword it draws one token with `logit_bias`; fixed text is
appended to the prompt without a request. The `Guide` discards the tokens of a response from the first one on that
should have been drawn otherwise, so replies have the same probabilities as in process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

import numpy as np

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.engine import FinishReason, OnText, Sample
from sage_dialog.inference.steering import Guide, GuideState
from sage_dialog.sac.grammar import BlockGrammar, ValueLimits, is_list_field

PROCESSOR_ARGUMENT = "sage_steering"
"""The request argument in which `logits_processor` expects a steering."""

LIMIT_ARGUMENTS = ("sage_max_label_length", "sage_max_topics")
"""The request arguments that hold the form of the blocks; one needs the other."""

MAX_BIAS = 100.0  # the largest `logit_bias` that servers accept; it makes a token certain or impossible
MAX_REDRAWS = 16  # of a token at one position before the request lists all allowed tokens

_END_OF_BLOCKS = BlockGrammar.with_values({}).literals[-1]


def processor_arguments(steering: Steering | None, limits: ValueLimits | None = None) -> dict[str, str | int | None]:
    """Return a request's `vllm_xargs` for a server with the logits processor.

    The server cannot report that its tokenizer cannot write a value, so build the `Guide` in this process first.
    """
    steering = steering or Steering()
    # Without the default, so that requests are those of earlier versions, in the response cache and to their servers.
    default = {"boost_scale"} if steering.boost_scale == "log_odds" else None
    held = () if limits is None else zip(LIMIT_ARGUMENTS, (limits.label_length, limits.topics), strict=True)
    return {PROCESSOR_ARGUMENT: steering.model_dump_json(exclude=default), **dict(held)}


@dataclass(frozen=True)
class Completion:
    """A server's continuation of a prompt.

    Attributes:
        tokens: ids of the drawn tokens, with the one that completes a stop string, without the end token.
        finish: "end" at the end token, "stop" at a stop string, "length" at `max_tokens`.
    """

    tokens: list[int]
    finish: Literal["end", "stop", "length"]


async def steered_sample(
    complete: Callable[..., Awaitable[Completion]],
    guide: Guide,
    prompt: Sequence[int],
    sampling: SamplingConfig,
    seed_of: Callable[[int], int],
    decode: Callable[[list[int]], str],
    on_text: OnText | None = None,
) -> Sample:
    """Return one reply to a prompt of token ids, a function of the prompt and the seeds, without log-probability.

    Args:
        complete: requests the continuation of a prompt by one policy. Its keywords beside `max_tokens` and `seed`:
            `stop`, a text at which the server may end the request, which only saves work; `logit_bias`, added to the
            logits before the temperature divides them, at most `MAX_BIAS` in absolute value; `allowed`, the only
            allowed tokens; and `on_text` for the text of this request.
        seed_of: the seed of the reply's request number 0, 1, …
        decode: the text of a reply's tokens.
        on_text: as in `Engine.sample`. The blocks are emitted in one piece, because parts of them may be discarded.
            The requests do not depend on it.

    Raises:
        ValueError: if the server returns no tokens, or forbidden ones.
    """
    reply, requests = _Reply(guide, guide.initial_state), count()

    async def request(single: bool, stop: str | None = None, on_text: OnText | None = None) -> None:
        completion = await complete(
            [*prompt, *reply.tokens],
            max_tokens=1 if single else room(),
            seed=seed_of(next(requests)),
            stop=stop,
            logit_bias=reply.biases(sampling.temperature),
            allowed=reply.allowed(),
            on_text=on_text,
        )
        reply.read(completion)

    def room() -> int:
        return 0 if reply.ended else sampling.max_new_tokens - len(reply.tokens)

    while (state := reply.state) is not None and room():
        if state.forced_token is not None:
            reply.append(state.forced_token)
        elif any(state.weights) or reply.rejected:
            await request(single=True)
        else:
            await request(single=False, stop=_stop(guide, state, decode(reply.tokens)))
    while room() and decode(reply.tokens).endswith("\ufffd"):
        await request(single=True)  # until the last letter is complete
    if on_text is not None:
        on_text(decode(reply.tokens))
    if room():
        await request(single=False, on_text=on_text)
    finish_reason = FinishReason.STOP if reply.ended else FinishReason.LENGTH
    return Sample(decode(reply.tokens), len(reply.tokens), finish_reason)


def _stop(guide: Guide, state: GuideState, text: str) -> str:
    """Return a text before the next steered token; without one, the end of the blocks.

    A request always ends there, streamed or not, because each request has its own seed.
    """
    name = state.parser.field
    if name in guide.markers and is_list_field(name):
        return ","
    return next((marker for marker in guide.markers.values() if marker not in text), _END_OF_BLOCKS)


@dataclass
class _Reply:
    """A reply so far. `rejected` are the forbidden tokens that the server drew at this position."""

    guide: Guide
    state: GuideState | None
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    rejected: list[int] = field(default_factory=list)

    def biases(self, temperature: float) -> dict[int, float]:
        """Return what the server adds to the logits before it divides them by the temperature, by token."""
        biases: dict[int, float] = {}
        if self.state is not None:
            factor, boosts = (
                self.state.boost_factor(temperature),
                zip(self.state.tokens, self.state.weights, strict=True),
            )
            biases = {token: factor * weight for token, weight in boosts if weight}
        if self.allowed() is None:
            # Draws without replacement: the first allowed token has its odds among the allowed ones.
            biases |= dict.fromkeys(self.rejected, -MAX_BIAS)
        return {token: min(max(bias, -MAX_BIAS), MAX_BIAS) for token, bias in biases.items()}

    def allowed(self) -> list[int] | None:
        if self.state is None or self.state.mask is None or len(self.rejected) < MAX_REDRAWS:
            return None
        return np.flatnonzero(self.state.mask == 0).tolist()

    def read(self, completion: Completion) -> None:
        """Append the drawn tokens, up to one that should have been drawn otherwise."""
        drawn = [*completion.tokens, *([self.guide.end] if completion.finish == "end" else [])]
        if not drawn:
            raise ValueError("the server returned no tokens; steering needs the ids of all tokens that it draws")
        for number, token in enumerate(drawn):
            if self.state is not None:
                if number and any(self.state.weights):
                    return
                if self.state.mask is not None and self.state.mask[token] != 0:
                    if self.allowed() is not None:
                        raise ValueError(f"the server drew token {token}, which is not among the allowed tokens")
                    if self.state.forced_token is None:
                        self.rejected.append(token)
                    return
            self.append(token)

    def append(self, token: int) -> None:
        self.ended = token == self.guide.end
        self.tokens += [] if self.ended else [token]
        self.state = self.state and self.guide.next_state(self.state, token)
        self.rejected = []
