"""Batches of prompts by an upper estimate of the memory that decoding takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft.tuners.lora import ParamWrapper

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FLOAT, INDEX = 4, 8
"""Bytes of a float32, such as a logit whatever the model's dtype, and of an index."""

MASK = 4 + FLOAT
"""Bytes of a prompt's attention mask per pair of tokens, as booleans and as numbers."""

FIXED = 2**16
"""Bytes independent of the batch."""


@dataclass(frozen=True)
class Footprint:
    """The dimensions of a model that decide the memory of a batch, without the weights.

    Attributes:
        layers, hidden, heads, kv_heads, head_dim, vocabulary: of its configuration.
        inner: width of a token's feed-forward layers.
        experts: number of experts that process a token at once.
        element: bytes of a number in the model's dtype.
        merged: bytes of the temporary weights of adapters on experts, for one layer at a time.
        shared_prefix: whether the samples of a prompt share its cache; else each has its own.
        all_scores: whether the attention of a prompt holds the scores of all pairs of tokens at once.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    inner: int
    experts: int
    element: int
    merged: int = 0
    shared_prefix: bool = True
    all_scores: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel, shared_prefix: bool = True) -> Footprint:
        config = model.config.get_text_config()
        one_by_one = getattr(config, "_experts_implementation", None) == "eager"
        experts = 1 if one_by_one else _largest(config, "num_experts_per_tok") or 1
        inner = _largest(config, "intermediate_size", "moe_intermediate_size")
        heads = _largest(config, "num_attention_heads") or 1  # state spaces have none
        merged: dict[int, int] = defaultdict(int)
        for module in model.modules():
            if isinstance(module, ParamWrapper):
                merged[id(module.get_base_layer())] += module.get_param().nbytes
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=_largest(config, "num_key_value_heads") or heads,
            head_dim=_largest(config, "head_dim") or config.hidden_size // heads,
            vocabulary=config.vocab_size,
            inner=inner or 4 * config.hidden_size,
            experts=experts,
            element=model.dtype.itemsize,
            merged=max(merged.values(), default=0),
            shared_prefix=shared_prefix,
            all_scores=not shared_prefix and config._attn_implementation == "eager",
        )

    def bytes(self, prompts: int, longest: int, samples: int, new: int) -> int:
        """Return the peak memory of `decode` in bytes, for prompts padded to `longest` tokens and `new` new ones."""
        rows = prompts * samples
        cache = 2 * self.layers * self.kv_heads * self.head_dim * self.element  # of a token
        of_prompts = (prompts if self.shared_prefix else rows) * longest * cache
        pairs = longest**2 * (MASK + (self.heads * (2 * self.element + 2 * FLOAT) if self.all_scores else 0))
        prefill = prompts * (longest * self._activations + pairs + self.vocabulary * 2 * FLOAT)
        kept = rows * (new * (cache + 2 * INDEX) + self.vocabulary * (self.element + FLOAT + 1))
        scores = rows * self.heads * (longest + new) * (2 * self.element + 2 * FLOAT)
        forward = rows * (self._activations + self.vocabulary * (self.element + FLOAT)) + scores
        draw = rows * (3 * self.vocabulary * FLOAT + 3 * min(longest + new, self.vocabulary) * INDEX)
        compaction = of_prompts + 2 * rows * new * cache // self.layers  # without a shared prefix, also of each step
        return FIXED + self.merged + of_prompts + max(prefill, kept + max(forward, draw, compaction))

    @property
    def _activations(self) -> int:
        """Bytes per token of a layer's activations, without the cache."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 6 * query + 5 * key
        feed_forward = self.experts * (4 * self.inner + 2 * self.hidden)
        return self.element * (4 * self.hidden + max(attention, feed_forward)) + 2 * FLOAT * self.hidden


def _largest(config: PretrainedConfig, *names: str) -> int:
    """Return the largest of these fields, which some architectures have as a list with one entry per layer; or 0."""
    fields = (getattr(config, name, None) for name in names)
    return max(number or 0 for field in fields for number in (field if isinstance(field, list) else [field]))


def batches(
    lengths: Mapping[int, int], samples: int, new: int, footprint: Footprint, budget: int
) -> Iterator[list[int]]:
    """Yield batches of prompts of similar length, longest first, as many as fit into `budget` bytes, at least one.

    Args:
        lengths: number of tokens by prompt.
        samples: replies per prompt.
        new: new tokens at most.
    """
    batch: list[int] = []
    for index in sorted(lengths, key=lambda index: (-lengths[index], index)):
        if batch and footprint.bytes(len(batch) + 1, lengths[batch[0]], samples, new) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
