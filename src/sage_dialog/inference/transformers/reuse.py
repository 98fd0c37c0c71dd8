"""How far a model can reuse the computations of a prompt: the first method whose logits are those of plain forwards.

Architectures differ in what an attention of our own does not see (sinks, biases, layers that drop its arguments), in
whether they take padding, and in their caches. Lists of them would age, so the loaded model itself is compared.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch

from sage_dialog.inference.transformers.decode_states import (
    RecomputedState,
    RepeatedCacheState,
    SharedPrefixState,
    StartState,
    accepted,
)
from sage_dialog.inference.transformers.graphed_steps import GraphedState
from sage_dialog.inference.transformers.shared_prefix import IMPLEMENTATION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.06}
"""Distance of the logits of a token, as a share of their spread, by dtype. Rounding gives about 1e-6 and 0.02."""

COMPARED = {torch.float32: 1.0, torch.bfloat16: 0.5}
"""The quantile of a prompt's distances that is compared: the largest; in bfloat16 the median, because rounding now and
then sends a token to another expert."""

_HUGE = 1e9

LENGTHS, SAMPLES, NEW = (23, 16), 2, 4
"""Tokens of the prompts that are compared, samples of each, and new tokens."""


@dataclass(frozen=True)
class Method:
    """A way to sample several replies to a prompt.

    Attributes:
        text: what it does, for the log.
        shared_prefix: whether the attention is that of `shared_prefix`; else the model's own.
        together: whether prompts of unequal length can be in one batch.
        graphed: whether steps are CUDA graphs.
        branching: whether a row can become two at little cost.
    """

    text: str
    start: StartState
    shared_prefix: bool = False
    together: bool = True
    graphed: bool = False
    branching: bool = False


METHODS = (
    Method(
        "one copy of a prompt's keys and values for all its samples, a step as one CUDA graph",
        *(GraphedState, True),
        graphed=True,
    ),
    Method(
        "one copy of a prompt's keys and values for all its samples",
        SharedPrefixState,
        shared_prefix=True,
        branching=True,
    ),
    Method("transformers' own cache of the prompts, repeated for each sample", RepeatedCacheState),
    Method(
        "transformers' own cache, repeated for each sample, one prompt at a time", RepeatedCacheState, together=False
    ),
    Method("no cache, every token computes its whole text again", RecomputedState, together=False, branching=True),
)


def choose_method(model: PreTrainedModel, window: int, policy: str, cuda_graphs: bool = False) -> Method:
    """Return the first of `METHODS` that gives the logits of plain forwards, and set the model's attention for it.

    Args:
        model: as loaded, with the attention that transformers chooses.
        window: of the shared prefix, in tokens.
        policy: its name and path, for the error.
        cuda_graphs: whether to try methods with CUDA graphs.

    Raises:
        ValueError: if the plain logits are not finite, or no method gives them.
    """
    own_attention = model.config._attn_implementation
    prompts, continuations = _probe(model, window)
    expected = [_plain_logits(model, prompt, rows) for prompt, rows in zip(prompts, continuations, strict=True)]
    if not all(bool(logits.isfinite().all()) for logits in expected):
        raise ValueError(
            f"{policy} gives logits that are not finite (NaN or infinity): its weights are damaged, or its numbers "
            f"overflow in {str(model.dtype).removeprefix('torch.')}"
        )
    found: list[str] = []
    for method in METHODS:
        if method.graphed and not cuda_graphs:
            continue
        if method.shared_prefix and not model._can_set_attn_implementation():
            found.append("its layers choose their attention themselves")
            continue
        model.set_attn_implementation(IMPLEMENTATION if method.shared_prefix else own_attention)
        try:
            distance = _distance(model, method, prompts, continuations, expected)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # any: layers that were not written for this
            found.append(f"{type(error).__name__}: {shorten(str(error), 90)}")
            continue
        if distance <= TOLERANCE[model.dtype]:
            if found:
                logger.info("%s: %s, because of %s", type(model).__name__, method.text, found[-1])
            return method
        found.append(f"a distance of {distance:.2g}")
    raise ValueError(
        f"{policy} cannot be sampled in this process: with its architecture, {type(model).__name__}, no cached or "
        f"repeated forward gives the logits of a plain one ({'; '.join(found)}). Is it a causal language model? Serve "
        f"it elsewhere (docs/generation.md), or train on another base"
    )


def _probe(model: PreTrainedModel, window: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Return prompts of random tokens, and for each the new tokens of its samples."""
    vocabulary = model.config.get_text_config().vocab_size
    random = torch.Generator().manual_seed(0)

    def tokens(*shape: int) -> list[Any]:  # of the middle: special tokens are at the ends
        drawn: list[Any] = torch.randint(
            vocabulary // 4, vocabulary - vocabulary // 4, shape, generator=random
        ).tolist()
        return drawn

    prompts = [tokens(max(1, min(length, window - NEW))) for length in LENGTHS]
    return prompts, [tokens(SAMPLES, NEW) for _ in prompts]


@torch.inference_mode()
def _plain_logits(model: PreTrainedModel, prompt: list[int], continuations: list[list[int]]) -> torch.Tensor:
    """Return logits (samples, NEW + 1, vocabulary) after the prompt and each new token, without cache or padding."""
    ids = torch.tensor([prompt + new for new in continuations], device=model.device)
    without = dict.fromkeys(accepted(model, "use_cache"), False)
    logits: torch.Tensor = model(input_ids=ids, **without).logits[:, -NEW - 1 :].float()
    return logits


@torch.inference_mode()
def _distance(
    model: PreTrainedModel,
    method: Method,
    prompts: list[list[int]],
    continuations: list[list[list[int]]],
    expected: list[torch.Tensor],
) -> float:
    """Return the distance of the logits from the expected ones, of the prompt with the largest.

    A row is dropped on the way.
    """
    if not method.together:
        each = zip(prompts, continuations, expected, strict=True)
        together = replace(method, together=True)
        return max(_distance(model, together, [prompt], [new], [logits]) for prompt, new, logits in each)
    batch = method.start(model, prompts, SAMPLES, NEW)
    logits, new = torch.cat(expected), torch.tensor(continuations, device=model.device).flatten(0, 1)
    of_prompt = torch.arange(len(prompts), device=model.device).repeat_interleave(SAMPLES)
    batch.select(of_prompt)
    distances = [_relative(batch.logits.repeat_interleave(SAMPLES, dim=0), logits[:, 0])]
    owners = [of_prompt]
    for step in range(NEW):
        if step == NEW // 2:
            kept = torch.tensor([row for row in range(len(new)) if row != 1], device=model.device)
            batch.select(kept)
            logits, new, of_prompt = logits[kept], new[kept], of_prompt[kept]
        distances.append(_relative(batch.step(new[:, step]), logits[:, step + 1]))
        owners.append(of_prompt)
    distance, owner = torch.cat(distances).cpu(), torch.cat(owners).cpu()
    quantile = COMPARED[model.dtype]
    return max(
        float(distance[owner == prompt].quantile(quantile, interpolation="higher")) for prompt in range(len(prompts))
    )


def _relative(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return the distance of each row as a share of the spread of its expected logits; huge if not finite."""
    share = (found - expected).norm(dim=1) / (expected - expected.mean(dim=1, keepdim=True)).norm(dim=1)
    return share.nan_to_num(nan=_HUGE, posinf=_HUGE)
