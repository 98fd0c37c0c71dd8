"""The decode loop: a padded prefill, then one token per step for every text that unfinished rows continue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sage_dialog.config import SamplingConfig
from sage_dialog.inference.steering import Guide, GuideState
from sage_dialog.inference.transformers.branches import branch
from sage_dialog.inference.transformers.decode_states import SharedPrefixState, StartState

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPACT_BELOW = 0.75
"""Texts that no row continues are dropped once less than this share is continued; dropping copies the cache."""

STEPS_BETWEEN_CHECKS = 8
"""On a GPU, the steps after which the loop looks which rows are unfinished: each look waits for the GPU."""


@dataclass(frozen=True)
class Decoded:
    """The new tokens of one row.

    Attributes:
        tokens: without the end token.
        finished: false at the token limit.
        log_probability: of the tokens, and of the end token where it was drawn, in the model's own distribution.
    """

    tokens: list[int]
    finished: bool
    log_probability: float


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    draws: np.ndarray,
    sampling: SamplingConfig,
    end: int,
    guide: Guide | None = None,
    on_token: tuple[int, Callable[[int], None]] | None = None,
    start: StartState = SharedPrefixState,
    branching: bool = False,
) -> list[list[Decoded]]:
    """Sample replies to a batch of prompts.

    Row (i, j) is a function of prompt i and draws[i, j] alone, up to rounding, since the batch decides the shape of
    matrix products.

    Args:
        model: with the attention that `start` needs.
        draws: (prompts, samples, max_new_tokens), a uniform number in [0, 1) for every token.
        end: the end token.
        guide: steers the replies.
        on_token: (i, callback), called with each token of row (i, 0) except the end token.
        start: reads the prompts, and keeps what later tokens need of them.
        branching: computes what several rows have written alike once (`branches`). For a CPU: it looks at each token.
    """
    samples, new = draws.shape[1], sampling.max_new_tokens
    branching = branching and samples > 1
    batch = start(model, prompts, samples, new)
    logits, device = batch.logits, batch.logits.device
    del batch.logits  # as large as the cache of a small model
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt)] = True
    seen = seen.to(device)
    rows = torch.arange(len(prompts) * samples, device=device)
    text = rows // samples  # of `logits` and all that is kept in their order, the place of each row
    if not branching:
        batch.select(text)
        logits, seen, text = logits[text], seen[text], rows
    uniform = torch.from_numpy(draws.reshape(len(rows), -1)).to(device)
    written = torch.full((len(rows), new), end, device=device)
    log_probabilities = torch.zeros(len(rows), dtype=torch.float64, device=device)
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    states: list[GuideState | None] | None = None if guide is None else [guide.initial_state] * len(logits)
    for step in range(new):
        token = draw(logits, seen, uniform[rows, step], sampling, states, text)
        written[rows, step] = torch.where(alive, token, end)
        log_probabilities[rows] += (logits[text, token] - logits.logsumexp(dim=1)[text]).where(alive, 0.0)
        alive = alive & (token != end)
        if on_token is not None:
            for drawn in token[alive & (rows == on_token[0] * samples)].tolist():
                on_token[1](drawn)
        if step + 1 == new:
            break
        unfinished = int(alive.sum()) if device.type == "cpu" or step % STEPS_BETWEEN_CHECKS == 0 else len(rows)
        if unfinished == 0:
            break
        sources: torch.Tensor | None = None
        if branching:
            rows, text, token, alive = rows[alive], text[alive], token[alive], alive[alive]
            text, sources, token = branch(text, token, len(logits), end, COMPACT_BELOW)
        elif unfinished < COMPACT_BELOW * len(rows):
            sources = alive.nonzero().flatten()
            rows, token, alive = rows[sources], token[sources], alive[sources]
            text = torch.arange(len(rows), device=device)
        if sources is not None:
            batch.select(sources)
            seen = seen[sources]
            states = states and [states[source] for source in sources.tolist()]
        if guide is not None and states is not None:
            states = [
                state and guide.next_state(state, drawn) for state, drawn in zip(states, token.tolist(), strict=True)
            ]
            states = states if any(states) else None
        if sampling.repetition_penalty != 1.0:
            seen.scatter_(1, token[:, None], True)
        logits = batch.step(token)
    replies = []
    for reply, log_probability in zip(written.numpy(force=True), log_probabilities.tolist(), strict=True):
        ends = np.flatnonzero(reply == end)
        cut = int(ends[0]) if len(ends) else len(reply)
        replies.append(Decoded(reply[:cut].tolist(), bool(len(ends)), log_probability))
    return [replies[start : start + samples] for start in range(0, len(replies), samples)]


def draw(
    logits: torch.Tensor,
    seen: torch.Tensor,
    uniform: torch.Tensor,
    sampling: SamplingConfig,
    states: Sequence[GuideState | None] | None = None,
    text: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw one token per row by inverse CDF, after repetition penalty, steering, temperature and top-k.

    Apart from steering the order is that of transformers. The kept tokens are in the order of the vocabulary, not of
    their scores, so that rounding cannot swap two tokens of nearly equal score and change the drawn one.

    Args:
        logits: (texts, vocabulary).
        seen: (texts, vocabulary), true for tokens of the prompt and the reply so far.
        uniform: (rows,) in [0, 1).
        states: for each text its steering, None where there is none.
        text: (rows,), the text of each row; None where every row has its own.
    """
    if sampling.repetition_penalty != 1.0:
        logits = apply_repetition_penalty(logits, seen, sampling.repetition_penalty)
    if states is not None:
        logits = apply_steering(logits, states, sampling.temperature)
    values, tokens = logits.topk(min(sampling.top_k, logits.shape[1]), dim=1)
    tokens, order = tokens.sort(dim=1)
    values = values.gather(1, order).double() / sampling.temperature
    cumulative = values.softmax(dim=1).cumsum(dim=1)
    if text is not None:
        cumulative, tokens = cumulative[text], tokens[text]
    target = uniform[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True).clamp_(max=tokens.shape[1] - 1)
    return tokens.gather(1, place).squeeze(1)


def apply_repetition_penalty(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return logits (rows, vocabulary) with those of seen tokens divided by the penalty, negative ones multiplied.

    On a CPU only the seen tokens are computed: hundreds of many thousands. A GPU would wait for their number.
    """
    if logits.device.type != "cpu":
        return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
    flat = logits.reshape(-1).clone()
    at = seen.reshape(-1).nonzero().squeeze(1)
    values = flat[at]
    flat[at] = torch.where(values < 0, values * penalty, values / penalty)
    return flat.view(logits.shape)


def apply_steering(logits: torch.Tensor, states: Sequence[GuideState | None], temperature: float) -> torch.Tensor:
    """Return logits (rows, vocabulary) with boosts added, and minus infinity for forbidden tokens.

    Boosts in log-odds of the drawn token are multiplied by the temperature that divides them later.
    """
    device = logits.device
    boosted = [(row, state) for row, state in enumerate(states) if state is not None and state.tokens]
    if boosted:
        rows = torch.tensor([row for row, state in boosted for _ in state.tokens], device=device)
        tokens = torch.tensor([token for _, state in boosted for token in state.tokens], device=device)
        weights = torch.tensor([weight for _, state in boosted for weight in state.weights], dtype=logits.dtype)
        factors = [state.boost_factor(temperature) for _, state in boosted for _ in state.tokens]
        added = (torch.tensor(factors, dtype=logits.dtype) * weights).to(device)
        logits = logits.index_put((rows, tokens), added, accumulate=True)
    masks = [None if state is None else state.mask for state in states]
    if any(mask is not None for mask in masks):
        distinct = {id(mask): np.zeros(logits.shape[1], np.float32) if mask is None else mask for mask in masks}
        numbers = {key: number for number, key in enumerate(distinct)}
        which = torch.tensor([numbers[id(mask)] for mask in masks], device=device)
        logits = logits + torch.from_numpy(np.stack([*distinct.values()])).to(logits)[which]
    return logits
