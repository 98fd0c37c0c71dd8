"""Sampled replies parsed as candidates for a turn, with the reason where one is not valid."""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_dialog.dialogue import Message
from sage_dialog.inference.engine import Sample
from sage_dialog.sac import Chain, Unparsed, parse
from sage_dialog.sac.grammar import BlockGrammar

_INITIAL_STATE = BlockGrammar.with_values({}).initial_state()


@dataclass(frozen=True)
class Candidate:
    """One sampled agent reply.

    Attributes:
        text: the reply as written, blocks included.
        utterance: the reply without blocks; None where the blocks do not parse.
        chain: the parsed blocks; None without blocks or where they do not parse.
        invalid_reason: None for a valid candidate.
        log_probability: that of the sample.
    """

    text: str
    utterance: str | None
    chain: Chain | None
    invalid_reason: str | None
    log_probability: float | None = field(default=None, compare=False)

    @property
    def valid(self) -> bool:
        return self.invalid_reason is None

    @property
    def message(self) -> Message:
        """The reply as a message. Its text is the whole reply where the blocks do not parse."""
        return Message("assistant", self.text, self.text if self.utterance is None else self.utterance, self.chain)


def parse_candidate(sample: Sample, blocks: bool) -> Candidate:
    """Return a sample as a candidate.

    Args:
        blocks: whether the policy writes state and action blocks.
    """
    chain = parse(sample.text) if blocks else None
    utterance = chain.utterance if isinstance(chain, Chain) else None if blocks else sample.text
    reason = None
    if not sample.finished:
        reason = "cut at the token limit"
    elif isinstance(chain, Unparsed):
        reason = chain.reason
    elif not (utterance or "").strip():
        reason = "empty utterance"
    parsed = chain if isinstance(chain, Chain) else None
    return Candidate(sample.text, utterance, parsed, reason, sample.log_probability)


def utterance_start(text: str, blocks: bool) -> int:
    """Return where the utterance of a complete or partial reply begins: its length within the blocks.

    It is 0 in text that cannot become blocks.

    Args:
        blocks: whether the policy writes state and action blocks.
    """
    if not blocks:
        return 0
    if isinstance(chain := parse(text), Chain):
        return len(text) - len(chain.utterance)
    return 0 if _INITIAL_STATE.advance(text) is None else len(text)
