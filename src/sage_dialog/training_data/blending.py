"""Blending: conversations of the same source are concatenated, so that policies train on longer contexts.

Lengths must be known before a tokenizer is. A byte-level tokenizer (byte-level BPE, SentencePiece with byte fallback)
makes at most one token of each UTF-8 byte, so bytes bound tokens. The chat template adds a constant for each message
and one for the conversation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sage_dialog.config import Blend
from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message
from sage_dialog.training_data.sources import up_to_last_reply

TEMPLATE_TOKENS = 64
"""Tokens that a chat template adds once: begin of text, a date, a default system message."""
MESSAGE_TOKENS = 16
"""Tokens that a chat template adds to each message."""


def blend_dialogues(
    dialogues: Mapping[str, Sequence[Message]], config: Blend, seed: int, source: str
) -> dict[str, list[Message]]:
    """Return each dialogue up to its last reply, followed by up to `config.others` others with its system message.

    The others are drawn by (seed, source, dialogue id) from all of `dialogues`. A dialogue is never followed by itself
    or by one with the same opening, as in a Reddit thread. The first one that does not fit is cut after the last reply
    that fits, and none follows it. A dialogue that alone exceeds the limit stays alone.

    Args:
        dialogues: by id; the user speaks first, and at least one message is the assistant's.
    """
    by_system: dict[str | None, list[str]] = {}
    for name, messages in sorted(dialogues.items()):
        by_system.setdefault(messages[0].content if messages[0].role == "system" else None, []).append(name)
    blended = {}
    for names in by_system.values():
        for own, name in enumerate(names):
            rng = generator(seed, f"blend {source}", name)
            drawn = rng.choice(len(names) - 1, min(config.others, len(names) - 1), replace=False)
            others = (names[place + (place >= own)] for place in drawn.tolist())
            blended[name] = _concatenate(dialogues[name], (dialogues[other] for other in others), config)
    return blended


def token_bound(messages: Sequence[Message], bytes_per_token: float) -> int:
    """Return an upper bound on the number of tokens of messages, without the template's constant."""
    return sum(math.ceil(len(message.content.encode()) / bytes_per_token) + MESSAGE_TOKENS for message in messages)


def _concatenate(own: Sequence[Message], others: Iterable[Sequence[Message]], config: Blend) -> list[Message]:
    blended = list(up_to_last_reply(own))
    budget = config.max_tokens - TEMPLATE_TOKENS - token_bound(blended, config.bytes_per_token)
    openings = {_without_system(own)[0].text}
    for other in others:
        messages = up_to_last_reply(_without_system(other))
        if messages[0].text in openings:
            continue
        openings.add(messages[0].text)
        part = _cut_to_budget(messages, budget, config.bytes_per_token)
        blended += part
        budget -= token_bound(part, config.bytes_per_token)
        if len(part) < len(messages):
            break
    return blended


def _without_system(messages: Sequence[Message]) -> Sequence[Message]:
    return messages[1:] if messages[0].role == "system" else messages


def _cut_to_budget(messages: Sequence[Message], budget: int, bytes_per_token: float) -> Sequence[Message]:
    """Return the longest prefix within the budget that ends with a reply."""
    end = 0
    for place, message in enumerate(messages):
        budget -= token_bound([message], bytes_per_token)
        if budget < 0:
            break
        if message.role == "assistant":
            end = place + 1
    return messages[:end]
