"""Steering (paper §3.7) within a vLLM server, whose requests then bring it along (`processor_arguments`).

    vllm serve BASE --logits-processors sage_dialog.inference.vllm.logits_processor:SteeringProcessor

Both interfaces of vLLM 0.32 are served: that of Model Runner V2, its default, which gives the requests of
every step anew, and the older one, which says what has changed in the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from sage_dialog.config import Steering
from sage_dialog.inference.steering import Guide, GuideState, Vocabulary
from sage_dialog.inference.vllm.steered_completions import PROCESSOR_ARGUMENT
from sage_dialog.sac.grammar import BlockGrammar

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as OfRunnerV1
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as OfRunnerV2
except ImportError:  # outside a server, where only its own base classes are missing

    class OfRunnerV1:  # type: ignore[no-redef]
        """vLLM's."""

    class OfRunnerV2:  # type: ignore[no-redef]
        """vLLM's."""


if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

GUIDES = 16
"""Steerings worked out and kept for requests to come."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Row:
    """A request that is steered, and where its reply stands.

    `drawn` are the tokens of the reply, a list that grows. `penalty` and `prompt` are those of a repetition penalty
    that the server puts on top of what is done here.
    """

    guide: Guide | None
    place: GuideState | None
    temperature: float
    drawn: list[int]
    penalty: float = 1.0
    prompt: frozenset[int] = frozenset()
    read: int = field(default=0, init=False)

    def follow(self) -> None:
        for token in self.drawn[self.read :]:
            if self.guide is not None and self.place is not None:
                self.place = self.guide.after(self.place, token)
        self.read = len(self.drawn)

    def penalties(self) -> list[float]:
        """By boosted token; 1 where it was not seen yet."""
        tokens = self.place.tokens if self.place else []
        if self.penalty == 1.0:
            return [1.0] * len(tokens)
        return [self.penalty if token in self.prompt or token in self.drawn else 1.0 for token in tokens]


class SteeringProcessor(OfRunnerV1, OfRunnerV2):
    """A vLLM logits processor for requests with `{"sage_steering": "<a Steering as JSON>"}` in their `vllm_xargs`.

    The order is that of the engine in process: repetition penalty, steering, temperature, top-k. Where vLLM penalises
    later (Runner V1), the logits of boosted tokens are set so that the penalty makes of them what they should be.

    A steering that the model's tokenizer cannot write is found out only where requests are not refused any more: the
    reply is then empty, and the server's log says why.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        requests: torch.device | LogitsProcRequestState,
        is_pin_memory: bool | None = None,
    ) -> None:
        """Runner V2 gives the state of its requests; Runner V1 its device instead, and whether memory is pinned.

        Raises:
            ValueError: if the server guesses several tokens ahead, or its tokenizer cannot be steered.
        """
        from transformers import AutoTokenizer

        if vllm_config.speculative_config is not None:
            raise ValueError("steering follows a reply token by token; start the server without speculative decoding")
        model = vllm_config.model_config
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer, revision=model.tokenizer_revision)
        vocabulary, end, size = Vocabulary(tokenizer), tokenizer.eos_token_id, model.get_vocab_size()
        self._requests: Any = requests
        self._rows: dict[int, _Row] = {}  # by their number in the batch (V1), by their slot (V2)
        self._bars: WeakKeyDictionary[GuideState, torch.Tensor] = WeakKeyDictionary()
        self._guide: Callable[[str], Guide | None] = lru_cache(GUIDES)(
            lambda steering: _guide(vocabulary, steering, end, size)
        )
        only_end = np.where(np.arange(size) == end, np.float32(0), np.float32(-np.inf))
        self._end_at_once = GuideState(BlockGrammar.with_values({}).initial_state(), b"", [], [], only_end)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises ValueError, which the request's sender gets to read, where its steering cannot be followed."""
        steering = _asked(sampling_params)
        try:
            boosts = Steering.model_validate_json(steering).boosts if steering is not None else {}
        except ValueError as error:
            raise ValueError(f"{PROCESSOR_ARGUMENT} in `vllm_xargs` is not a steering: {error}") from None
        if boosts and sampling_params.temperature == 0:
            raise ValueError("boosts are multiplied by the temperature, so at 0 they do nothing; set it above 0")

    def is_argmax_invariant(self) -> bool:
        """Steering changes which token is the likeliest."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Runner V1: rows leave, come and move."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, prompt, drawn in batch_update.added:
            self._add(index, params, drawn, params.repetition_penalty, frozenset(prompt or ()))
        for source, target, how in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if replaced is not None and how.name == "SWAP":
                self._rows[source] = replaced

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Runner V2: a request gets a slot. Returns whether it is steered."""
        self._add(req_idx, sampling_params, [])
        return req_idx in self._rows

    def _add(self, index: int, params: SamplingParams, drawn: list[int], *penalised: Any) -> None:
        self._rows.pop(index, None)
        steering = _asked(params)
        if steering is not None and Steering.model_validate_json(steering):
            guide = self._guide(steering)
            place = self._end_at_once if guide is None else guide.start
            self._rows[index] = _Row(guide, place, params.temperature, drawn, *penalised)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Steer the next token of each row; logits (rows, vocabulary) are changed in place."""
        if ctx is None:
            rows = self._rows
        else:
            slots = ctx.idx_mapping_np.tolist()
            rows = {at: self._rows[slot] for at, slot in enumerate(slots) if slot in self._rows}
        going = {at: row for at, row in rows.items() if row.place is not None}
        if ctx is not None and going:
            self._read(going, ctx)
        for row in going.values():
            row.follow()
        self._boost(logits, {at: row for at, row in going.items() if row.place and row.place.tokens})
        barred = {at: row.place for at, row in going.items() if row.place and row.place.barred is not None}
        if barred:
            at = torch.tensor(list(barred), device=logits.device)
            bars = torch.stack([self._bar(place, logits.device) for place in barred.values()])
            logits[at] = logits[at].masked_fill(bars, -torch.inf)
        return logits

    def _read(self, rows: dict[int, _Row], ctx: LogitsContext) -> None:
        """Runner V2: what was drawn since. It is one token, but for a request that comes back."""
        slots = ctx.idx_mapping_np[list(rows)]
        ends = ctx.seq_lens_upper_bound_np[list(rows)]
        prompts = self._requests.prompt_len.np[slots]
        # Of a prompt that is not read to its end yet the logits are thrown away.
        fresh = [
            max(int(end - prompt) - row.read, 0) for end, prompt, row in zip(ends, prompts, rows.values(), strict=True)
        ]
        if not any(fresh):
            return
        columns = np.maximum(ends[:, None] - max(fresh) + np.arange(max(fresh)), 0)
        tokens = self._requests.all_token_ids.gpu
        at = torch.from_numpy(slots.astype(np.int64))[:, None], torch.from_numpy(columns.astype(np.int64))
        drawn = tokens[at[0].to(tokens.device), at[1].to(tokens.device)].tolist()
        for row, number, written in zip(rows.values(), fresh, drawn, strict=True):
            row.drawn += written[len(written) - number :]

    def _boost(self, logits: torch.Tensor, rows: dict[int, _Row]) -> None:
        if not rows:
            return
        places = [(at, row, row.place) for at, row in rows.items() if row.place is not None]
        at = torch.tensor([at for at, _, place in places for _ in place.tokens], device=logits.device)
        tokens = torch.tensor([token for _, _, place in places for token in place.tokens], device=logits.device)
        weights = [row.temperature * weight for _, row, place in places for weight in place.weights]
        penalties = torch.tensor([it for _, row, _ in places for it in row.penalties()], device=logits.device)
        found = logits[at, tokens]
        wanted = torch.where(found > 0, found / penalties, found * penalties) + torch.tensor(weights).to(logits)
        logits[at, tokens] = torch.where(wanted > 0, wanted * penalties, wanted / penalties)

    def _bar(self, place: GuideState, device: torch.device) -> torch.Tensor:
        """Which tokens may not come (vocabulary,), kept where the logits are."""
        if place not in self._bars:
            assert place.barred is not None
            self._bars[place] = torch.from_numpy(place.barred != 0).to(device)
        return self._bars[place]


def _asked(params: SamplingParams) -> str | None:
    return (params.extra_args or {}).get(PROCESSOR_ARGUMENT)


def _guide(vocabulary: Vocabulary, steering: str, end: int, size: int) -> Guide | None:
    try:
        return Guide(vocabulary, Steering.model_validate_json(steering), end, size)
    except ValueError as error:  # raised here it would end the server
        _log.error("a request cannot be steered, and its reply will be empty: %s", error)
        return None
