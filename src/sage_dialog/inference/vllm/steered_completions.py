"""Steering (paper §3.7) over a completions server that knows nothing of it: a request for each piece of the reply.

Where nothing is steered the server writes on; where a keyword is boosted it draws one token with `logit_bias`; what is
given is put behind the prompt unasked. Whatever the server wrote is read again token by token with the `Guide`, and
thrown away from the first token on that should have been drawn otherwise. Replies have the probabilities that they
have in process: a stop string, or its absence, decides only how much is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, Protocol

import numpy as np

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.engine import FinishReason, Sample
from sage_dialog.inference.steering import Guide, GuideState
from sage_dialog.sac.grammar import BlockGrammar, is_list_field

PROCESSOR_ARGUMENT = "sage_steering"
"""The request argument under which the logits processor in `vllm_steering` looks for a steering."""

LARGEST_BIAS = 100.0
"""What servers take at most; in effect it makes a token certain or impossible."""

REDRAWS = 16
"""Times a token is drawn again at one place before the server is given all that may come there."""

_END_OF_BLOCKS = BlockGrammar.with_values({}).literals[-1]


def processor_arguments(steering: Steering) -> dict[str, str]:
    """What a request's `vllm_xargs` hold for a server that runs the logits processor in `vllm_steering`.

    The server steers such a request by itself, and it is sampled like any other, `n` at a time. It cannot say that its
    tokenizer cannot write a value, so build the `Guide` here once before: it raises a ValueError that can be read.
    """
    return {PROCESSOR_ARGUMENT: steering.model_dump_json()}


@dataclass(frozen=True)
class Completion:
    """What a server wrote behind a prompt.

    `tokens` are the ids of what it drew, the one that completes a stop string among them, the end token not.
    `finish` is "end" where the policy ended the reply, "stop" at a stop string, "length" at `max_tokens`.
    """

    tokens: list[int]
    finish: Literal["end", "stop", "length"]


class Completer(Protocol):
    """Has a server go on with a prompt. Policy, temperature, top-k and repetition penalty are bound beforehand."""

    async def __call__(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        seed: int,
        stop: str | None,
        logit_bias: Mapping[int, float],
        allowed: Sequence[int] | None,
        on_text: Callable[[str], None] | None,
    ) -> Completion:
        """The prompt is token ids, and nothing is added to it.

        Args:
            stop: the server may end the request at this text. It saves work and nothing else: leave it out where the
                server does not tell a stop string from the end of the reply (vLLM: `stop_reason`).
            logit_bias: added to the logits before the temperature divides them; at most `LARGEST_BIAS` either way.
            allowed: the only tokens that may come (vLLM: `allowed_token_ids`), rarely asked for.
            on_text: as in `Engine.sample`, for what this request writes.

        Raises:
            ValueError: if `allowed` is asked for and the server has nothing of the kind.
        """
        ...


async def steered_sample(
    complete: Completer,
    guide: Guide,
    prompt: Sequence[int],
    sampling: SamplingConfig,
    seed_of: Callable[[int], int],
    decode: Callable[[list[int]], str],
    on_text: Callable[[str], None] | None = None,
) -> Sample:
    """One reply to a prompt of token ids, a function of the prompt and the seeds; its log-probability is not known.

    Args:
        seed_of: the seed of the reply's request number 0, 1, …
        decode: the text of a reply's tokens.
        on_text: as in `Engine.sample`. The blocks are on_text in one piece, since of them some may be thrown away. The
            requests are the same without.

    Raises:
        ValueError: if the server writes nothing, or what it was told not to.
    """
    reply, requests = _Reply(guide, guide.start), count()

    async def go_on(one: bool, stop: str | None = None, on_text: Callable[[str], None] | None = None) -> None:
        completion = await complete(
            [*prompt, *reply.tokens],
            max_tokens=1 if one else room(),
            seed=seed_of(next(requests)),
            stop=stop,
            logit_bias=reply.biases(sampling.temperature),
            allowed=reply.allowed(),
            on_text=on_text,
        )
        reply.read(completion)

    def room() -> int:
        return 0 if reply.ended else sampling.max_new_tokens - len(reply.tokens)

    while (place := reply.place) is not None and room():
        if place.only is not None:
            reply.take(place.only)
        elif any(place.weights) or reply.barred:
            await go_on(one=True)
        else:
            await go_on(one=False, stop=_stop(guide, place, decode(reply.tokens)))
    while room() and decode(reply.tokens).endswith("\ufffd"):
        await go_on(one=True)  # until the last letter is whole
    if on_text is not None:
        on_text(decode(reply.tokens))
    if room():
        await go_on(one=False, on_text=on_text)
    finish = FinishReason.STOP if reply.ended else FinishReason.LENGTH
    return Sample(decode(reply.tokens), len(reply.tokens), finish)


def _stop(guide: Guide, place: GuideState, text: str) -> str:
    """Where the next token to steer comes, as far as a text can tell; where none does, the end of the blocks.

    There a request ends whether or not anyone listens, since each draws by a seed of its own.
    """
    under_way = place.progress.field
    if under_way in guide.markers and is_list_field(under_way):
        return ","
    return next((marker for marker in guide.markers.values() if marker not in text), _END_OF_BLOCKS)


@dataclass
class _Reply:
    """A reply so far. `barred` are tokens that the server drew at this place and that may not come there."""

    guide: Guide
    place: GuideState | None
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    barred: list[int] = field(default_factory=list)

    def biases(self, temperature: float) -> dict[int, float]:
        """Boosts are log-odds of the token drawn, so they are multiplied by the temperature that divides them later."""
        boosts = {} if self.place is None else dict(zip(self.place.tokens, self.place.weights, strict=True))
        biases = {token: temperature * weight for token, weight in boosts.items() if weight}
        if self.allowed() is None:
            # Draws without putting back: the first that may come has the odds that it has among those that may.
            biases |= dict.fromkeys(self.barred, -LARGEST_BIAS)
        return {token: min(max(bias, -LARGEST_BIAS), LARGEST_BIAS) for token, bias in biases.items()}

    def allowed(self) -> list[int] | None:
        if self.place is None or self.place.barred is None or len(self.barred) < REDRAWS:
            return None
        return np.flatnonzero(self.place.barred == 0).tolist()

    def read(self, completion: Completion) -> None:
        """Take what the server drew, up to a token that should have been drawn otherwise."""
        drawn = [*completion.tokens, *([self.guide.end] if completion.finish == "end" else [])]
        if not drawn:
            raise ValueError("the server wrote nothing; steering needs the ids of all tokens that it draws")
        for number, token in enumerate(drawn):
            if self.place is not None:
                if number and any(self.place.weights):
                    return
                if self.place.barred is not None and self.place.barred[token] != 0:
                    self._bar(token)
                    return
            self.take(token)

    def _bar(self, token: int) -> None:
        if self.allowed() is not None:
            raise ValueError(f"the server drew token {token}, which is not among the tokens that it was allowed")
        if self.place is not None and self.place.only is None:
            self.barred.append(token)

    def take(self, token: int) -> None:
        self.ended = token == self.guide.end
        self.tokens += [] if self.ended else [token]
        self.place = self.place and self.guide.after(self.place, token)
        self.barred = []
