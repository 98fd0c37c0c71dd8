"""Blending: other conversations of the same source follow a conversation, so that policies meet longer contexts.

How long a conversation is must be known before there is a model to ask. A tokenizer that works on bytes (byte-level
BPE, SentencePiece with byte fallback) makes no more tokens of a text than the text has bytes of UTF-8, so bytes bound
tokens; what a chat template writes around is bounded by a number for each message and one for the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sage_dialog.config import Blend
from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message
from sage_dialog.training_data.sources import up_to_last_reply

TEMPLATE_TOKENS = 64
"""Tokens that a chat template writes once: begin of text, a date, a default system message."""
MESSAGE_TOKENS = 16
"""Tokens that a chat template writes around a message."""


def blended(
    dialogues: Mapping[str, Sequence[Message]], config: Blend, seed: int, source: str
) -> dict[str, list[Message]]:
    """Each dialogue up to its last reply, and behind it up to `config.others` others with the same system message.

    Which ones is drawn by (seed, source, the dialogue's id) among all of `dialogues`. No dialogue follows itself, or
    one that begins with the same words, as do those of one Reddit thread. Where the next one does not fit whole it is
    cut behind the last reply that fits, and none follows. A dialogue that is too long by itself stays alone.

    Args:
        dialogues: by id; in each the user speaks first, and the assistant somewhere.
    """
    alike: dict[str | None, list[str]] = {}
    for name, turns in sorted(dialogues.items()):
        alike.setdefault(turns[0].content if turns[0].role == "system" else None, []).append(name)
    longer = {}
    for names in alike.values():
        for own, name in enumerate(names):
            rng = generator(seed, f"blend {source}", name)
            drawn = rng.choice(len(names) - 1, min(config.others, len(names) - 1), replace=False)
            others = (names[place + (place >= own)] for place in drawn.tolist())
            longer[name] = _joined(dialogues[name], (dialogues[other] for other in others), config)
    return longer


def token_bound(turns: Sequence[Message], bytes_per_token: float) -> int:
    """Tokens of messages at most, blocks included, template's share of the whole left out."""
    return sum(math.ceil(len(turn.content.encode()) / bytes_per_token) + MESSAGE_TOKENS for turn in turns)


def _joined(own: Sequence[Message], others: Iterable[Sequence[Message]], config: Blend) -> list[Message]:
    joined = list(up_to_last_reply(own))
    room = config.max_tokens - TEMPLATE_TOKENS - token_bound(joined, config.bytes_per_token)
    openings = {_spoken(own)[0].text}
    for other in others:
        spoken = up_to_last_reply(_spoken(other))
        if spoken[0].text in openings:
            continue
        openings.add(spoken[0].text)
        part = _fitting(spoken, room, config.bytes_per_token)
        joined += part
        room -= token_bound(part, config.bytes_per_token)
        if len(part) < len(spoken):
            break
    return joined


def _spoken(turns: Sequence[Message]) -> Sequence[Message]:
    return turns[1:] if turns[0].role == "system" else turns


def _fitting(turns: Sequence[Message], room: int, bytes_per_token: float) -> Sequence[Message]:
    """As much of a dialogue as there is room for, up to a reply."""
    whole = 0
    for place, turn in enumerate(turns):
        room -= token_bound([turn], bytes_per_token)
        if room < 0:
            break
        if turn.role == "assistant":
            whole = place + 1
    return turns[:whole]
