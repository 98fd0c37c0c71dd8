"""Decode steps of fixed shape, which a GPU replays as one CUDA graph.

A step launches some hundred small kernels, and with a small model the GPU waits for Python between them. A captured
step is launched at once. For that each of its tensors keeps its place and shape: the cache is as long as the reply may
get from the start, with a mask on what is not written yet. Rows that are dropped make a new capture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import Cache, StaticLayer

from sage_dialog.inference.transformers.decode_states import SharedPrefixState

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Replay = Callable[[], None]


class GraphedState(SharedPrefixState):
    """`SharedPrefixState` whose steps are captured once for each number of rows, and then replayed.

    The first step is run as it is: it allocates the cache, and what libraries allocate once. A returned tensor of
    logits is written anew by the next step.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], samples: int, new: int) -> None:
        super().__init__(model, prompts, samples, new)
        self._cache = Cache(layers=[StaticLayer(new) for _ in self._prefix.layers])
        self._written = torch.zeros(1, dtype=torch.long, device=model.device)  # tokens of each row
        self._unwritten = self._prefix.padding.new_zeros(new)
        self._prefix = replace(self._prefix, own_padding=self._unwritten)
        self._replay: Replay | None = None

    def select(self, rows: torch.Tensor) -> None:
        self._replay = None  # its memory is free before the next capture
        self._positions = self._positions[rows]
        self._prefix = self._prefix.select(rows)
        self._cache.reorder_cache(rows)

    def step(self, token: torch.Tensor) -> torch.Tensor:
        if self._replay is None:
            self._token = token[:, None].clone()
            self._positions = self._positions.clone()  # `select` may leave a view
            if not self._cache.layers[0].is_initialized:
                return self._advance()
            self._replay, self._logits = capture(self._advance)
        else:
            self._token.copy_(token[:, None])
        self._replay()
        return self._logits

    def _advance(self) -> torch.Tensor:
        """Run one step. All that it reads and changes stays in place."""
        slots = torch.arange(len(self._unwritten), device=self._unwritten.device)
        self._unwritten.zero_().masked_fill_(slots > self._written, float("-inf"))
        output = self._model(
            input_ids=self._token,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            prefix=self._prefix,
        )
        self._positions += 1
        self._written += 1
        return output.logits[:, -1].float()


def capture(step: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
    """Return a function that runs a step as one CUDA graph, and the tensor into which it writes the step's result.

    Raises:
        RuntimeError: if a step cannot be captured, because it waits for the GPU.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # records kernels, and runs none of them
        result = step()
    return graph.replay, result
