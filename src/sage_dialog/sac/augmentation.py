"""SAC augmentation (paper §3.2): the user's labels move to the start of the next assistant message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage_dialog.sac.chain import Chain, Intent, parse, render


@dataclass(frozen=True)
class Annotated:
    """One utterance of a dialogue with its labels. `role` is "user" or "assistant"."""

    role: str
    text: str
    intent: Intent


def augment(utterances: Sequence[Annotated]) -> list[dict[str, str]]:
    """Messages of one training conversation: user text plain, assistant text as a rendered chain.

    An assistant message that no user message precedes carries the empty state. State never crosses
    from one call to the next, so never from one dialogue into another.

    Raises:
        ValueError: if roles are not "user"/"assistant" in strict alternation.
    """
    messages: list[dict[str, str]] = []
    state = Intent()
    previous = None
    for position, utterance in enumerate(utterances):
        if utterance.role not in ("user", "assistant") or utterance.role == previous:
            raise ValueError(f"utterance {position} has role {utterance.role!r} after {previous!r}; roles alternate")
        previous = utterance.role
        if utterance.role == "user":
            state = utterance.intent
            messages.append({"role": "user", "content": utterance.text})
        else:
            content = render(Chain(state, utterance.intent, utterance.text))
            messages.append({"role": "assistant", "content": content})
    return messages


def strip_blocks(text: str) -> str:
    """The utterance alone where the text is a chain, else the text unchanged."""
    chain = parse(text)
    return chain.utterance if isinstance(chain, Chain) else text
