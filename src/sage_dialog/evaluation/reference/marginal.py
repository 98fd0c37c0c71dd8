"""The probability of a reply under a policy that writes a state-action chain first: the sum over chains.

p(reply | history) = Σ p(chain | history) p(reply | history, chain). The sum is over the closed set of chains whose
labels training had. It leaves out chains outside of the set, so it is a lower bound of the probability and an upper
bound of the bits; `mass`, the probability of the chains that are counted, says how close. Where the set is too large,
chains are sampled field by field from the set, and each is weighted by its probability over that of its draw: the mean
estimates the same sum without bias, so its logarithm is an upper bound of the bits in expectation (Jensen).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from sage_dialog.evaluation.reference.chain_set import (
    FIELDS,
    ChainSet,
    Labels,
    Value,
    blocks_text,
    value_end,
)
from sage_dialog.evaluation.reference.encoding import EncodedReply, ReplyEncoder
from sage_dialog.evaluation.reference.token_tree import Scorer, common_prefix

if TYPE_CHECKING:
    from sage_dialog.inference.chat_format import Messages

EXACT, UPPER_BOUND, EXPECTED_BOUND = "exact", "upper bound", "upper bound in expectation"
"""How a number of bits relates to that of the policy."""

CHAINS_OF_HISTORY = 4
"""Chains compared where a reply is not scored, and only the chain that explains it best is wanted."""

Distributions = Mapping[str, Mapping[Value, float]]
"""Natural log-probabilities of the values of a field, up to a constant."""


@dataclass(frozen=True)
class Marginal:
    """The likelihood of a reply with its chain summed out.

    Attributes:
        log_probability: natural logarithm.
        mass: probability of the chains that were scored with the reply.
        chains: their number.
        best: the chain that with the reply is the most probable.
        labels: what the policy predicts of the fields with several values, before it sees the reply.
    """

    log_probability: float
    mass: float
    chains: int
    estimate: str
    best: Labels
    labels: Distributions


@dataclass(frozen=True)
class ChainScorer:
    """Scores replies of one policy behind chains.

    Args:
        max_chains: of a set that is summed as a whole; a larger one is sampled.
        share: of the policy's probability, at each field, that the chains scored with the reply hold.
        samples: chains drawn from a larger set.
    """

    encoder: ReplyEncoder
    scorer: Scorer
    max_chains: int
    share: float
    samples: int
    window: int

    def plain(self, history: Messages, reply: str) -> float | None:
        """Return the natural log-probability of a reply without blocks; None where it does not fit the window."""
        encoded = self._encode(history, [""], reply)
        return None if encoded is None else float(self._score(encoded)[0].sum())

    def given(self, history: Messages, chains: Sequence[Labels], reply: str) -> list[tuple[float, float]] | None:
        """Return for each chain its log-probability and that of the reply behind it; None where it does not fit."""
        encoded = self._encode(history, [blocks_text(chain) for chain in chains], reply)
        if encoded is None:
            return None
        return [
            (float(values[: each.after_chain - each.first].sum()), float(values[each.after_chain - each.first :].sum()))
            for each, values in zip(encoded, self._score(encoded), strict=True)
        ]

    def marginal(
        self, history: Messages, reply: str, chains: ChainSet, random: np.random.Generator, fully: bool = True
    ) -> Marginal | None:
        """Return the likelihood of a reply; None where it does not fit the window.

        Args:
            fully: false where only `best` is wanted, of the few most probable chains.
        """
        weigh = self._enumerated if chains.size <= self.max_chains else self._sampled
        found = weigh(history, reply, chains, random, fully)
        if found is None:
            return None
        candidates, weights, labels = found
        scored = self.given(history, candidates, reply)
        if scored is None:
            return None
        joint = np.array([sum(each) for each in scored])
        enumerated = chains.size <= self.max_chains
        return Marginal(
            log_probability=float(logsumexp(joint + weights)),
            mass=min(1.0, math.exp(logsumexp([chain for chain, _ in scored]))),
            chains=len(candidates),
            estimate=UPPER_BOUND if enumerated else EXPECTED_BOUND,
            best=candidates[int(joint.argmax())],
            labels=labels,
        )

    def _enumerated(
        self, history: Messages, reply: str, chains: ChainSet, random: np.random.Generator, fully: bool
    ) -> tuple[list[Labels], np.ndarray, Distributions] | None:
        """Return the most probable chains of the set, and what the policy predicts of each field.

        Field by field: only beginnings of chains that together hold `share` of the probability are continued.
        """
        kept: list[Labels] = [tuple(chains.values[field][0] for field in FIELDS)]
        labels = {}
        for field in chains.varying:
            place, values = FIELDS.index(field), chains.values[field]
            options = [(*chain[:place], value, *chain[place + 1 :]) for chain in kept for value in values]
            beginnings = self._beginnings(history, reply, options, field)
            if beginnings is None:
                return None
            sums = logsumexp(beginnings.reshape(len(kept), len(values)), axis=0)
            labels[field] = dict(zip(values, sums.tolist(), strict=True))
            order = np.argsort(-beginnings, kind="stable")
            held = np.exp(beginnings[order] - logsumexp(beginnings)).cumsum()
            number = CHAINS_OF_HISTORY if not fully else len(held) if self.share == 1 else 1 + (held < self.share).sum()
            kept = [options[index] for index in order[:number]]
        return kept, np.zeros(len(kept)), labels

    def _sampled(
        self, history: Messages, reply: str, chains: ChainSet, random: np.random.Generator, fully: bool
    ) -> tuple[list[Labels], np.ndarray, Distributions] | None:
        """Return chains drawn field by field, with the logarithms of their weights, and what each field's draws saw."""
        number = self.samples if fully else CHAINS_OF_HISTORY
        chains = chains.at_most(self.max_chains)
        start = tuple(chains.values[field][0] for field in FIELDS)
        drawn: list[Labels] = [start] * number
        log_draw = np.zeros(number)  # of the values drawn so far, within the set
        labels = {}
        for field in chains.varying:
            place, values = FIELDS.index(field), chains.values[field]
            contexts = list(dict.fromkeys(drawn))
            options = [(*context[:place], value, *context[place + 1 :]) for context in contexts for value in values]
            beginnings = self._beginnings(history, reply, options, field)
            if beginnings is None:
                return None
            by_context = dict(zip(contexts, beginnings.reshape(len(contexts), len(values)), strict=True))
            of_draws = np.array([by_context[context] for context in drawn])
            # Draws are of the set: what a policy gives to texts outside of it lowers the weight of a chain.
            labels[field] = dict(
                zip(values, logsumexp(of_draws - log_draw[:, None], axis=0) - math.log(number), strict=True)
            )
            probabilities = np.exp(of_draws - logsumexp(of_draws, axis=1, keepdims=True))
            chosen = (random.random((number, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=len(values) - 1)
            log_draw += np.log(probabilities[np.arange(number), chosen])
            drawn = [
                (*before[:place], values[choice], *before[place + 1 :])
                for before, choice in zip(drawn, chosen, strict=True)
            ]
        distinct = list(dict.fromkeys(drawn))
        counts = np.array([drawn.count(chain) for chain in distinct])
        return (
            distinct,
            np.log(counts / number) - np.array([log_draw[drawn.index(chain)] for chain in distinct]),
            labels,
        )

    def _beginnings(self, history: Messages, reply: str, chains: Sequence[Labels], field: str) -> np.ndarray | None:
        """Return the log-probability of each chain's text up to the end of a field's value."""
        encoded = self._encode(history, [blocks_text(chain) for chain in chains], reply)
        if encoded is None:
            return None
        cut = [
            replace(each, tokens=each.up_to(value_end(chain, field)))
            for each, chain in zip(encoded, chains, strict=True)
        ]
        return np.array([values.sum() for values in self._score(cut)])

    def _encode(self, history: Messages, blocks: Sequence[str], reply: str) -> list[EncodedReply] | None:
        encoded = self.encoder.encode(history, blocks, reply)
        return None if max(len(each.tokens) for each in encoded) > self.window else encoded

    def _score(self, encoded: Sequence[EncodedReply]) -> list[np.ndarray]:
        """Return the log-probabilities of the tokens of each reply."""
        sequences = [each.tokens for each in encoded]
        first = min(common_prefix(sequences), *(each.first for each in encoded))
        values = self.scorer.score(sequences, first)
        return [each[one.first - first :] for one, each in zip(encoded, values, strict=True)]
