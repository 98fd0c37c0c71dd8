"""The decode loop: a padded prefill, then one token a step for every row that has not ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache
from transformers.cache_utils import Cache

from sage_dialog.config import SamplingConfig
from sage_dialog.inference.steering import Guide, GuideState
from sage_dialog.inference.transformers.shared_prefix import ReservedLayer, SharedPrefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPACT_BELOW = 0.75
"""Rows that ended are dropped once fewer than this share of the batch is alive; dropping copies the cache."""


@dataclass(frozen=True)
class Decoded:
    """The new tokens of one row, the end token not among them. `finished` is false at the token limit.

    `log_probability` is that of the tokens and the end, where it came, in the model's own distribution.
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
    listener: tuple[int, Callable[[int], None]] | None = None,
) -> list[list[Decoded]]:
    """Sample replies to a batch of prompts, steered where there is a guide.

    `draws` (prompts, samples, max_new_tokens) holds one uniform number in [0, 1) for every token that may
    come: row (i, j) is a function of prompt i and draws[i, j] alone, up to the rounding of matrix products
    whose shape the batch decides. `model` must run the shared prefix attention.

    A `listener` (i, hear) hears each token of row (i, 0) as it comes, the end token not among them.
    """
    samples = draws.shape[1]
    logits, prefix, lengths = _prefill(model, prompts, samples)
    device = logits.device
    rows = torch.arange(len(prompts) * samples, device=device)
    uniform = torch.from_numpy(draws.reshape(len(rows), -1)).to(device)
    logits = logits.repeat_interleave(samples, dim=0)
    positions = lengths.repeat_interleave(samples)[:, None]
    seen = _tokens_seen(prompts, logits.shape[1]).to(device).repeat_interleave(samples, dim=0)
    written = torch.full((len(rows), sampling.max_new_tokens), end, device=device)
    log_probabilities = torch.zeros(len(rows), dtype=torch.float64, device=device)
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    cache = Cache(layers=[ReservedLayer(sampling.max_new_tokens) for _ in prefix.layers])
    places: list[GuideState | None] | None = None if guide is None else [guide.start] * len(rows)
    for step in range(sampling.max_new_tokens):
        token = draw(logits, seen, uniform[rows, step], sampling, places)
        if guide is not None and places is not None:
            places = [place and guide.after(place, drawn) for place, drawn in zip(places, token.tolist(), strict=True)]
        written[rows, step] = torch.where(alive, token, end)
        log_probabilities[rows] -= cross_entropy(logits, token, reduction="none").where(alive, 0.0)
        alive &= token != end
        if listener is not None:
            for on_text in token[alive & (rows == listener[0] * samples)].tolist():
                listener[1](on_text)
        going = int(alive.sum())
        if going == 0 or step + 1 == sampling.max_new_tokens:
            break
        if going < COMPACT_BELOW * len(rows):
            kept = alive.nonzero().flatten()
            rows, token, positions, seen = rows[kept], token[kept], positions[kept], seen[kept]
            prefix, alive = prefix.keep(kept), alive[kept]
            cache.batch_select_indices(kept)
            places = places and [places[row] for row in kept.tolist()]
        if places is not None and not any(places):
            places = None
        if sampling.repetition_penalty != 1.0:
            seen.scatter_(1, token[:, None], True)
        output = model(
            input_ids=token[:, None], position_ids=positions, past_key_values=cache, use_cache=True, prefix=prefix
        )
        logits = output.logits[:, -1].float()
        positions = positions + 1
    return _replies(written.numpy(force=True), log_probabilities.tolist(), samples, end)


def draw(
    logits: torch.Tensor,
    seen: torch.Tensor,
    uniform: torch.Tensor,
    sampling: SamplingConfig,
    places: Sequence[GuideState | None] | None = None,
) -> torch.Tensor:
    """One token a row by inverse CDF: repetition penalty, steering, temperature, top-k.

    logits: (rows, vocabulary); seen: the same shape, true for tokens of the prompt or the reply so far;
    uniform: (rows,) in [0, 1); places: for each row where its reply stands, None where nothing is steered.
    But for steering the order is that of `transformers`.

    The kept tokens stand in the order of the vocabulary, not of their scores, so that rounding cannot swap two
    of about equal score and with them the meaning of the drawn number.
    """
    if sampling.repetition_penalty != 1.0:
        logits = penalised(logits, seen, sampling.repetition_penalty)
    if places is not None:
        logits = steered(logits, places, sampling.temperature)
    values, tokens = logits.topk(min(sampling.top_k, logits.shape[1]), dim=1)
    tokens, order = tokens.sort(dim=1)
    values = values.gather(1, order).double() / sampling.temperature
    cumulative = values.softmax(dim=1).cumsum(dim=1)
    target = uniform[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True).clamp_(max=tokens.shape[1] - 1)
    return tokens.gather(1, place).squeeze(1)


def penalised(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Logits (rows, vocabulary) of the tokens seen divided by the penalty, negative ones multiplied.

    Of thousands of tokens a row has seen hundreds: only those are worked on.
    """
    flat = logits.reshape(-1).clone()
    at = seen.reshape(-1).nonzero().squeeze(1)
    found = flat[at]
    flat[at] = torch.where(found < 0, found * penalty, found / penalty)
    return flat.view(logits.shape)


def steered(logits: torch.Tensor, places: Sequence[GuideState | None], temperature: float) -> torch.Tensor:
    """Logits (rows, vocabulary) with boosts added, and minus infinity where a token may not come.

    A boost is in log-odds of the drawn token, so it is multiplied by the temperature that divides it later.
    """
    boosted = [(row, place) for row, place in enumerate(places) if place is not None and place.tokens]
    device = logits.device
    if boosted:
        rows = torch.tensor([row for row, place in boosted for _ in place.tokens], device=device)
        tokens = torch.tensor([token for _, place in boosted for token in place.tokens], device=device)
        weights = [weight for _, place in boosted for weight in place.weights]
        added = temperature * torch.tensor(weights, dtype=logits.dtype, device=device)
        logits = logits.index_put((rows, tokens), added, accumulate=True)
    barred = [None if place is None else place.barred for place in places]
    if any(bar is not None for bar in barred):
        bars = {id(bar): np.zeros(logits.shape[1], np.float32) if bar is None else bar for bar in barred}
        numbers = {key: number for number, key in enumerate(bars)}
        which = torch.tensor([numbers[id(bar)] for bar in barred], device=device)
        logits = logits + torch.from_numpy(np.stack([*bars.values()])).to(logits)[which]
    return logits


def _prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int
) -> tuple[torch.Tensor, SharedPrefix, torch.Tensor]:
    """Next-token logits (prompts, vocabulary) in float32, the prompts' keys and values, their lengths (prompts,)."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
    ids, lengths = ids.to(model.device), lengths.to(model.device)
    mask = torch.arange(longest, device=model.device)[None, :] >= longest - lengths[:, None]
    cache = DynamicCache()
    output = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=(mask.cumsum(dim=1) - 1).clamp_(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    padding = layers[0][0].new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))[:, None, None, :]
    prefix = SharedPrefix(layers, padding, torch.arange(len(prompts) * samples, device=model.device), samples)
    return output.logits[:, -1].float(), prefix, lengths


def _tokens_seen(prompts: Sequence[Sequence[int]], vocabulary: int) -> torch.Tensor:
    seen = torch.zeros(len(prompts), vocabulary, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt)] = True
    return seen


def _replies(written: np.ndarray, log_probabilities: list[float], samples: int, end: int) -> list[list[Decoded]]:
    replies = []
    for row, log_probability in zip(written, log_probabilities, strict=True):
        ends = np.flatnonzero(row == end)
        cut = int(ends[0]) if len(ends) else len(row)
        replies.append(Decoded(row[:cut].tolist(), bool(len(ends)), log_probability))
    return [replies[start : start + samples] for start in range(0, len(replies), samples)]
