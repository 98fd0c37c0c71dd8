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
    """The prompts of a batch, and the sample slots that are unfinished.

    Attributes:
        layers: keys and values of each layer, both (prompts, kv_heads, length, head_dim).
        padding: (prompts, 1, 1, length), minus infinity on padding and zero elsewhere.
        slots: (rows,), for each row prompt * width + its slot, ascending.
        width: sample slots per prompt.
        own_padding: (own tokens,), minus infinity where the rows' cache is not written yet; None where all of it is.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    padding: torch.Tensor
    slots: torch.Tensor
    width: int
    own_padding: torch.Tensor | None = None

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """Reshape (rows, kv_heads, group, x) to (prompts, kv_heads, width * group, x), with zeros in free slots."""
        _, heads, group, last = rows.shape
        prompts = len(self.padding)
        if len(rows) < prompts * self.width:
            rows = rows.new_zeros(prompts * self.width, heads, group, last).index_copy_(0, self.slots, rows)
        grouped = rows.view(prompts, self.width, heads, group, last).transpose(1, 2)
        return grouped.reshape(prompts, heads, self.width * group, last)

    def gather(self, spread: torch.Tensor, group: int) -> torch.Tensor:
        """Invert `spread`."""
        prompts, heads, _, last = spread.shape
        rows = spread.view(prompts, heads, self.width, group, last).transpose(1, 2)
        rows = rows.reshape(prompts * self.width, heads, group, last)
        return rows if len(self.slots) == len(rows) else rows.index_select(0, self.slots)

    def keep(self, rows: torch.Tensor) -> SharedPrefix:
        """Keep the given rows only; unused prompts and slots are dropped."""
        prompt = self.slots[rows] // self.width
        alive, place = torch.unique_consecutive(prompt, return_inverse=True)
        slot_of_row = torch.arange(len(rows), device=rows.device) - torch.searchsorted(prompt, alive)[place]
        width = int(slot_of_row.max()) + 1
        kept = replace(self, slots=place * width + slot_of_row, width=width)
        if len(alive) == len(self.padding):
            return kept
        layers = tuple((keys[alive], values[alive]) for keys, values in self.layers)
        return replace(kept, layers=layers, padding=self.padding[alive])


class ReservedLayer(DynamicLayer):
    """A cache layer with memory reserved once, so that no step copies earlier ones.

    Holds (rows, kv_heads, tokens so far, head_dim). Each step adds one token, `length` at most.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        filled = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            rows, heads, _, dim = key_states.shape
            self._reserved = key_states.new_empty(2, rows, heads, self._length, dim)
        self._reserved[0, :, :, filled] = key_states[:, :, 0]
        self._reserved[1, :, :, filled] = value_states[:, :, 0]
        self.keys, self.values = self._reserved[:, :, :, : filled + 1]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.is_initialized:
            filled = self.get_seq_length()
            kept = self._reserved[:, indices, :, :filled]
            self._reserved = kept.new_empty(*kept.shape[:3], self._length, kept.shape[4])
            self._reserved[:, :, :, :filled] = kept
            self.keys, self.values = self._reserved[:, :, :, :filled]


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
