"""What a sampled reply is worth: what it says, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from sage_dialog.inference.engine import Sample
from sage_dialog.sac import Chain, Unparsed, parse


@dataclass(frozen=True)
class Candidate:
    """One sampled agent reply. `reason` says why it is not valid; `utterance` is null where it cannot be told."""

    text: str
    utterance: str | None
    chain: Chain | None
    reason: str | None

    @property
    def valid(self) -> bool:
        return self.reason is None


def parse_candidate(sample: Sample, blocks: bool) -> Candidate:
    """A sample as a candidate, with the reason where nobody may say it.

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
    return Candidate(sample.text, utterance, chain if isinstance(chain, Chain) else None, reason)
