"""Steering (paper §3.7) as a logits processor of a vLLM server; requests carry the steering (`processor_arguments`).

    vllm serve BASE --logits-processors sage_dialog.inference.vllm.logits_processor:SteeringProcessor

Implements both interfaces of vLLM 0.32: that of Model Runner V2, its default, which passes the requests of every step,
and the older one, which passes changes of the batch.
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
from sage_dialog.inference.steering import Guide, GuideState
from sage_dialog.inference.vllm.steered_completions import LIMIT_ARGUMENTS, PROCESSOR_ARGUMENT
from sage_dialog.inference.vocabulary import Vocabulary
from sage_dialog.sac.grammar import SHORTEST_LIMIT, BlockGrammar, ValueLimits

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as OfRunnerV1
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as OfRunnerV2
except ImportError:  # outside a server

    class OfRunnerV1: ...  # type: ignore[no-redef]

    class OfRunnerV2: ...  # type: ignore[no-redef]


if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    """The arguments of a request: a steering as JSON, and the limits of a held form."""

    json: str
    limits: ValueLimits | None

    @property
    def steering(self) -> Steering:
        return Steering.model_validate_json(self.json)


@dataclass(eq=False)
class _SteeredRequest:
    """A steered request.

    Attributes:
        state: of its reply after the first `advanced` tokens.
        drawn: the tokens of the reply, a list that the server extends.
        penalty: a repetition penalty that the server applies after this processor.
        prompt: the tokens of the prompt, for the penalty.
    """

    guide: Guide | None
    state: GuideState | None
    temperature: float
    drawn: list[int]
    penalty: float = 1.0
    prompt: frozenset[int] = frozenset()
    advanced: int = field(default=0, init=False)

    def advance(self) -> None:
        for token in self.drawn[self.advanced :]:
            if self.guide is not None and self.state is not None:
                self.state = self.guide.next_state(self.state, token)
        self.advanced = len(self.drawn)

    def penalty_of(self, token: int) -> float:
        """Return the penalty of a token; 1 if it was not seen yet."""
        return self.penalty if self.penalty != 1.0 and (token in self.prompt or token in self.drawn) else 1.0


class SteeringProcessor(OfRunnerV1, OfRunnerV2):
    """A vLLM logits processor for requests with `{"sage_steering": "<a Steering as JSON>"}` in their `vllm_xargs`.

    The order is that of the engine in process: repetition penalty, steering, temperature, top-k. Where vLLM applies the
    penalty later (Runner V1), the logits of boosted tokens are set so that the penalty gives the same result.

    A value that the model's tokenizer cannot write is only detected after the request was accepted: the reply is then
    empty, and the server logs the reason.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        requests: torch.device | LogitsProcRequestState,
        is_pin_memory: bool | None = None,
    ) -> None:
        """Create the processor; `requests` is the state of the requests (Runner V2) or the device (Runner V1).

        Raises:
            ValueError: if the server uses speculative decoding, or its tokenizer cannot be steered.
        """
        from sage_dialog.inference.chat_format import load_tokenizer  # not above: …

        if vllm_config.speculative_config is not None:
            raise ValueError("steering needs a reply token by token; start the server without speculative decoding")
        model = vllm_config.model_config
        tokenizer = load_tokenizer(model.tokenizer, revision=model.tokenizer_revision)
        vocabulary, end, size = Vocabulary(tokenizer), tokenizer.eos_token_id, model.get_vocab_size()
        self._requests: Any = requests
        self._rows: dict[int, _SteeredRequest] = {}  # by index in the batch (V1) or slot (V2)
        self._masks: WeakKeyDictionary[GuideState, torch.Tensor] = WeakKeyDictionary()
        self._guide: Callable[[_Request], Guide | None] = lru_cache(16)(
            lambda request: _guide(vocabulary, request, end, size)
        )
        only_end = np.where(np.arange(size) == end, np.float32(0), np.float32(-np.inf))
        self._only_end = GuideState(BlockGrammar.with_values({}).initial_state(), b"", [], [], only_end)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise ValueError for an invalid steering; vLLM returns the message to the client."""
        try:
            given = _request(sampling_params).steering
        except ValueError as error:
            raise ValueError(f"{PROCESSOR_ARGUMENT} in `vllm_xargs` is not a steering: {error}") from None
        if given.boosts and given.boost_scale == "log_odds" and sampling_params.temperature == 0:
            raise ValueError(
                "boosts are multiplied by the temperature, so at 0 they do nothing; set it above 0, or boost raw logits"
            )

    def is_argmax_invariant(self) -> bool:
        """Return False, because steering changes the most likely token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow changes of the batch (Runner V1)."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, prompt, drawn in batch_update.added:
            self._add(index, params, drawn, params.repetition_penalty, frozenset(prompt or ()))
        for source, target, direction in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if replaced is not None and direction.name == "SWAP":
                self._rows[source] = replaced

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Add a request in a slot and return whether it is steered (Runner V2)."""
        self._add(req_idx, sampling_params, [])
        return req_idx in self._rows

    def _add(self, index: int, params: SamplingParams, drawn: list[int], *penalty: Any) -> None:
        self._rows.pop(index, None)
        request = _request(params)
        if request.steering or request.limits is not None:
            guide = self._guide(request)
            state = self._only_end if guide is None else guide.initial_state
            self._rows[index] = _SteeredRequest(guide, state, params.temperature, drawn, *penalty)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext | None = None) -> torch.Tensor:
        """Steer the next token of each row, changing logits (rows, vocabulary) in place."""
        if ctx is None:
            rows = self._rows
        else:
            slots = ctx.idx_mapping_np.tolist()
            rows = {at: self._rows[slot] for at, slot in enumerate(slots) if slot in self._rows}
        steered = {at: row for at, row in rows.items() if row.state is not None}
        if ctx is not None and steered:
            self._read_drawn(steered, ctx)
        for row in steered.values():
            row.advance()
        boosted = [
            (at, token, row.state.boost_factor(row.temperature) * weight, row)
            for at, row in steered.items()
            if row.state
            for token, weight in zip(row.state.tokens, row.state.weights, strict=True)
        ]
        if boosted:
            self._boost(logits, boosted)
        masked = {at: row.state for at, row in steered.items() if row.state and row.state.mask is not None}
        if masked:
            at = torch.tensor(list(masked), device=logits.device)
            masks = torch.stack([self._forbidden(state, logits.device) for state in masked.values()])
            logits[at] = logits[at].masked_fill(masks, -torch.inf)
        return logits

    def _read_drawn(self, rows: dict[int, _SteeredRequest], ctx: LogitsContext) -> None:
        """Read the tokens drawn since (Runner V2): one, or more for a request that was preempted."""
        slots = ctx.idx_mapping_np[list(rows)]
        ends = ctx.seq_lens_upper_bound_np[list(rows)]
        prompts = self._requests.prompt_len.np[slots]
        # vLLM discards the logits of a prompt that is not yet processed to its end.
        fresh = [
            max(int(end - prompt) - row.advanced, 0)
            for end, prompt, row in zip(ends, prompts, rows.values(), strict=True)
        ]
        if not any(fresh):
            return
        columns = np.maximum(ends[:, None] - max(fresh) + np.arange(max(fresh)), 0)
        tokens = self._requests.all_token_ids.gpu
        at = torch.from_numpy(slots.astype(np.int64))[:, None], torch.from_numpy(columns.astype(np.int64))
        drawn = tokens[at[0].to(tokens.device), at[1].to(tokens.device)].tolist()
        for row, number, written in zip(rows.values(), fresh, drawn, strict=True):
            row.drawn += written[len(written) - number :]

    def _boost(self, logits: torch.Tensor, boosted: list[tuple[int, int, float, _SteeredRequest]]) -> None:
        """Add boosts of logits: (row, token, boost, request)."""
        at = torch.tensor([at for at, *_ in boosted], device=logits.device)
        tokens = torch.tensor([token for _, token, *_ in boosted], device=logits.device)
        added = torch.tensor([boost for *_, boost, _ in boosted]).to(logits)
        penalties = torch.tensor([row.penalty_of(token) for _, token, _, row in boosted], device=logits.device)
        values = logits[at, tokens]
        wanted = torch.where(values > 0, values / penalties, values * penalties) + added
        logits[at, tokens] = torch.where(wanted > 0, wanted * penalties, wanted / penalties)

    def _forbidden(self, state: GuideState, device: torch.device) -> torch.Tensor:
        """Return the mask of forbidden tokens (vocabulary,), cached on the device."""
        if state not in self._masks:
            assert state.mask is not None
            self._masks[state] = torch.from_numpy(state.mask != 0).to(device)
        return self._masks[state]


def _request(params: SamplingParams) -> _Request:
    """Return what a request asks for. Raises ValueError if its steering or its limits are invalid."""
    arguments = params.extra_args or {}
    steering = arguments.get(PROCESSOR_ARGUMENT) or "{}"
    Steering.model_validate_json(steering)
    given = [arguments.get(name) for name in LIMIT_ARGUMENTS]
    if given == [None, None]:
        return _Request(steering, None)
    length, topics = given
    if not (isinstance(length, int) and isinstance(topics, int) and length >= SHORTEST_LIMIT and topics >= 1):
        raise ValueError(f"{' and '.join(LIMIT_ARGUMENTS)} are numbers from {SHORTEST_LIMIT} and 1 on, not {given}")
    return _Request(steering, ValueLimits(length, topics))


def _guide(vocabulary: Vocabulary, request: _Request, end: int, size: int) -> Guide | None:
    try:
        return Guide(vocabulary, request.steering, end, size, request.limits)
    except ValueError as error:  # raising here would end the server
        logger.error("a request cannot be steered, and its reply will be empty: %s", error)
        return None
