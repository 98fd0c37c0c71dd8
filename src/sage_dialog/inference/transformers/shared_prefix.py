"""Attention in which all samples of a prompt share one copy of its keys and values.

A prompt of hundreds of tokens is read by 16 candidates at every step. Repeating its cache 16 times costs
the memory and, since the cache is copied as it grows, most of the time. Here the prompt's keys and values
stay as the prefill left them; each row keeps only those of its own new tokens, and the scores of both go
through one softmax, so the result is that of plain attention up to rounding.
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
    """The prompts of a batch and which of their sample slots are still being written.

    layers: keys and values of each layer, both (prompts, kv_heads, length, head_dim).
    padding: (prompts, 1, 1, length), minus infinity on padding and zero elsewhere.
    slots: (rows,), for each row prompt * width + its slot, ascending.
    width: sample slots a prompt.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    padding: torch.Tensor
    slots: torch.Tensor
    width: int

    @property
    def prompts(self) -> int:
        return self.padding.shape[0]

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, kv_heads, group, x) to (prompts, kv_heads, width * group, x); free slots hold zeros."""
        _, heads, group, last = rows.shape
        if len(rows) < self.prompts * self.width:
            rows = rows.new_zeros(self.prompts * self.width, heads, group, last).index_copy_(0, self.slots, rows)
        grouped = rows.view(self.prompts, self.width, heads, group, last).transpose(1, 2)
        return grouped.reshape(self.prompts, heads, self.width * group, last)

    def gather(self, spread: torch.Tensor, group: int) -> torch.Tensor:
        """The way back from `spread`."""
        _, heads, _, last = spread.shape
        rows = spread.view(self.prompts, heads, self.width, group, last).transpose(1, 2)
        rows = rows.reshape(self.prompts * self.width, heads, group, last)
        return rows if len(self.slots) == len(rows) else rows.index_select(0, self.slots)

    def keep(self, rows: torch.Tensor) -> SharedPrefix:
        """Only the given rows go on; prompts that no row needs any more and spare slots are let go."""
        prompt, slot_of_row = self.slots[rows] // self.width, torch.arange(len(rows), device=rows.device)
        alive, place = torch.unique_consecutive(prompt, return_inverse=True)
        starts = torch.searchsorted(prompt, alive)
        slot_of_row = slot_of_row - starts[place]
        width = int(slot_of_row.max()) + 1
        kept = replace(self, slots=place * width + slot_of_row, width=width)
        if len(alive) == self.prompts:
            return kept
        layers = tuple((keys[alive], values[alive]) for keys, values in self.layers)
        return replace(kept, layers=layers, padding=self.padding[alive])


class ReservedLayer(DynamicLayer):
    """A cache layer whose memory is reserved once, so that no step copies what earlier steps stored.

    Holds (rows, kv_heads, tokens so far, head_dim); takes one token a step, `length` at most.
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
    """Plain attention without `prefix`; with it, one new token a row over the prefix and the row's own tokens.

    query: (rows, heads, 1, head_dim); key and value: (rows, kv_heads, own tokens, head_dim).
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
    weights = torch.cat([of_prefix, of_own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    on_prefix, on_own = weights[..., :-own_length], weights[..., -own_length:]
    output = prefix.gather(on_prefix @ prefix_value, group) + prefix.gather(on_own, group) @ value
    return output.reshape(rows, 1, heads, dim), None


AttentionInterface.register(IMPLEMENTATION, shared_prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
