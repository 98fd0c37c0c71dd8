"""Attention in which all samples of a prompt share one copy of its keys and values.

Repeating the cache of a prompt for each of 16 candidates would cost most of the memory and of the time. Here each row
stores only the keys and values of its own new tokens, and one softmax covers the scores of both. The result equals
plain attention up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

IMPLEMENTATION = "sage_shared_prefix"


@dataclass(frozen=True)
class SharedPrefix:
    """The prompts of a batch, and the rows that continue them.

    Attributes:
        layers: keys and values of each layer, both (prompts, kv_heads, length, head_dim).
        padding: (prompts, 1, 1, length), minus infinity on padding and zero elsewhere.
        slots: (rows,), for each row prompt * width + its slot.
        width: slots per prompt.
        full: whether rows and slots are the same.
        own_padding: (own tokens,), minus infinity where the rows' cache is not written yet; None where all of it is.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    padding: torch.Tensor
    slots: torch.Tensor
    width: int
    full: bool = True
    own_padding: torch.Tensor | None = None

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """Reshape (rows, kv_heads, group, x) to (prompts, kv_heads, width * group, x), with zeros in free slots."""
        _, heads, group, last = rows.shape
        prompts = len(self.padding)
        if not self.full:
            rows = rows.new_zeros(prompts * self.width, heads, group, last).index_copy_(0, self.slots, rows)
        grouped = rows.view(prompts, self.width, heads, group, last).transpose(1, 2)
        return grouped.reshape(prompts, heads, self.width * group, last)

    def gather(self, spread: torch.Tensor, group: int) -> torch.Tensor:
        """Invert `spread`."""
        prompts, heads, _, last = spread.shape
        rows = spread.view(prompts, heads, self.width, group, last).transpose(1, 2)
        rows = rows.reshape(prompts * self.width, heads, group, last)
        return rows if self.full else rows.index_select(0, self.slots)

    def select(self, rows: torch.Tensor) -> SharedPrefix:
        """Return the prompts of the given rows, with a slot for each row."""
        alive, place, counts = torch.unique(self.slots[rows] // self.width, return_inverse=True, return_counts=True)
        by_prompt = place.argsort(stable=True)
        slot = torch.empty_like(place)
        slot[by_prompt] = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[place[by_prompt]]
        width = int(counts.max())
        slots = place * width + slot
        full = len(rows) == len(alive) * width and bool((slots[1:] > slots[:-1]).all())
        selected = replace(self, slots=slots, width=width, full=full)
        if len(alive) == len(self.padding):
            return selected
        layers = tuple((keys[alive], values[alive]) for keys, values in self.layers)
        return replace(selected, layers=layers, padding=self.padding[alive])


class ReservedLayer(DynamicLayer):
    """A cache layer with memory reserved once, so that neither steps nor new rows copy what others hold.

    Holds (rows, kv_heads, tokens so far, head_dim). Each step adds one token.

    Args:
        rows, length: at most.
    """

    def __init__(self, rows: int, length: int) -> None:
        super().__init__()
        self._rows, self._length = rows, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        filled, rows = self.get_seq_length(), len(key_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            _, heads, _, dim = key_states.shape
            self._reserved = key_states.new_empty(2, self._rows, heads, self._length, dim)
        self._reserved[0, :rows, :, filled] = key_states[:, :, 0]
        self._reserved[1, :rows, :, filled] = value_states[:, :, 0]
        self.keys, self.values = self._reserved[:, :rows, :, : filled + 1]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            filled = self.get_seq_length()
            moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().flatten()
            self._reserved[:, moved, :, :filled] = self._reserved[:, indices[moved], :, :filled]
            self.keys, self.values = self._reserved[:, : len(indices), :, :filled]


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    prefix: SharedPrefix | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Plain attention without `prefix`; with it, one new token per row over the prefix and the row's own tokens.

    Args:
        query: (rows, heads, 1, head_dim).
        key, value: (rows, kv_heads, own tokens, head_dim).
    """
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows, heads, _, dim = query.shape
    kv_heads, own_length = key.shape[1], key.shape[2]
    group = heads // kv_heads
    scale = dim**-0.5 if scaling is None else scaling
    query = query.reshape(rows, kv_heads, group, dim) * scale
    prefix_key, prefix_value = prefix.layers[module.layer_idx]
    of_prefix = prefix.spread(query) @ prefix_key.transpose(2, 3) + prefix.padding
    of_own = prefix.spread(query @ key.transpose(2, 3))
    if prefix.own_padding is not None:
        of_own = of_own + prefix.own_padding
    weights = torch.cat([of_prefix, of_own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    on_prefix, on_own = weights[..., :-own_length], weights[..., -own_length:]
    output = prefix.gather(on_prefix @ prefix_value, group) + prefix.gather(on_own, group) @ value
    return output.reshape(rows, 1, heads, dim), None


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
