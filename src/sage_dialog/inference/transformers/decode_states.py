"""What the decode loop asks of a model: logits of the prompts, then of one more token for every unfinished row.

Three ways give the same logits up to rounding; `reuse.py` decides by a comparison which of them a model can take.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache

from sage_dialog.inference.transformers.shared_prefix import ReservedLayer, SharedPrefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DecodeState(Protocol):
    """Texts as the model keeps them, one row each; at first those of the prompts.

    Attributes:
        logits: of the token after each prompt, (prompts, vocabulary) in float32.
    """

    logits: torch.Tensor

    def select(self, rows: torch.Tensor) -> None:
        """Continue the texts of the given rows, in this order; one that is given twice becomes two rows."""

    def step(self, token: torch.Tensor) -> torch.Tensor:
        """Append a token (rows,) to each row, and return the logits (rows, vocabulary) of the next one in float32."""


StartState = Callable[["PreTrainedModel", Sequence[Sequence[int]], int, int], DecodeState]
"""Reads prompts of a model: (model, prompts, rows per prompt at most, new tokens at most)."""


class SharedPrefixState:
    """One copy of each prompt's keys and values for all its samples; needs the attention of `shared_prefix`."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int, new: int) -> None:
        self._model = model
        ids, mask, lengths = _pad_left(prompts, model.device)
        cache = DynamicCache()
        output = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=_positions(mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        padding = layers[0][0].new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))[:, None, None, :]
        self.logits = output.logits[:, -1].float()
        self._prefix = SharedPrefix(layers, padding, torch.arange(len(prompts), device=model.device), width=1)
        self._positions = lengths[:, None]
        self._cache = Cache(layers=[ReservedLayer(len(prompts) * samples, new) for _ in layers])

    def select(self, rows: torch.Tensor) -> None:
        self._positions = self._positions[rows]
        self._prefix = self._prefix.select(rows)
        self._cache.batch_select_indices(rows)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=token[:, None],
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            prefix=self._prefix,
        )
        self._positions = self._positions + 1
        return output.logits[:, -1].float()


class RepeatedCacheState:
    """The cache that the model itself makes for the prompts, repeated for each row; its own attention.

    Raises:
        TypeError: if the model returns no cache whose rows can be repeated.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int, new: int) -> None:
        self._model = model
        ids, mask, _ = _pad_left(prompts, model.device)
        self._mask = None if bool(mask.all()) else mask  # not every model takes one
        self._of_mask = accepted(model, "attention_mask", "position_ids")
        output = model(input_ids=ids, use_cache=True, **self._padding(), **_last_logits(model))
        fields = (field for field in ("past_key_values", "cache_params") if output.get(field) is not None)
        self._field = next(fields, "")
        cache = output.get(self._field)
        if not isinstance(cache, Cache):
            raise TypeError(f"the cache is {type(cache).__name__}, not one of transformers' Cache")
        self._cache: Cache = cache
        self.logits = output.logits[:, -1].float()

    def select(self, rows: torch.Tensor) -> None:
        self._cache.reorder_cache(rows)  # `batch_select_indices` is not in layers with recurrent states
        if self._mask is not None:
            self._mask = self._mask[rows]

    def step(self, token: torch.Tensor) -> torch.Tensor:
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(token), 1)], dim=1)
        cache: dict[str, Any] = {self._field: self._cache}
        output = self._model(input_ids=token[:, None], use_cache=True, **cache, **self._padding(last=1))
        return output.logits[:, -1].float()

    def _padding(self, last: int = 0) -> dict[str, torch.Tensor]:
        if self._mask is None:
            return {}
        fields = {"attention_mask": self._mask.long(), "position_ids": _positions(self._mask)[:, -last:]}
        return {field: fields[field] for field in self._of_mask}


class RecomputedState:
    """No cache: each step computes the whole text of every row. One prompt at a time, because nothing is padded.

    Raises:
        ValueError: if the prompts differ in length.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int, new: int) -> None:
        self._model = model
        self._arguments = _last_logits(model) | dict.fromkeys(accepted(model, "use_cache"), False)
        self._ids = torch.tensor(prompts, device=model.device)
        self.logits = self._forward(self._ids)

    def select(self, rows: torch.Tensor) -> None:
        self._ids = self._ids[rows]

    def step(self, token: torch.Tensor) -> torch.Tensor:
        self._ids = torch.cat([self._ids, token[:, None]], dim=1)
        return self._forward(self._ids)

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(input_ids=ids, **self._arguments).logits[:, -1].float()
        return logits


def _pad_left(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids and mask (prompts, longest), true on tokens, and lengths (prompts,)."""
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    longest = int(lengths.max())
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
    ids, lengths = ids.to(device), lengths.to(device)
    return ids, torch.arange(longest, device=device)[None, :] >= longest - lengths[:, None], lengths


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=1) - 1).clamp_(min=0)


def accepted(model: PreTrainedModel, *names: str) -> list[str]:
    """Return those names that are arguments of the model's forward pass."""
    parameters = inspect.signature(model.forward).parameters
    return [name for name in names if name in parameters]


def _last_logits(model: PreTrainedModel) -> dict[str, int]:
    return dict.fromkeys(accepted(model, "logits_to_keep"), 1)
