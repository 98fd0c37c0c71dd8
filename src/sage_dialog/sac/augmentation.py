"""SAC augmentation (paper §3.2): the user's labels move to the start of the next assistant message."""

from __future__ import annotations

from collections.abc import Sequence

from sage_dialog.dialogue import Message
from sage_dialog.sac.chain import Chain, Intent, render


def augment(messages: Sequence[Message], intents: Sequence[Intent]) -> list[Message]:
    """Return the messages of one dialogue with the state and action blocks written into the assistant's.

    An assistant message without a user message before it carries the empty state. State never crosses from one
    dialogue into another.

    Args:
        messages: their `text` becomes the utterance of a chain.
        intents: the labels of each message.

    Raises:
        ValueError: if roles are not "user" and "assistant" in strict alternation.
    """
    augmented: list[Message] = []
    state, previous = Intent(), None
    for position, (message, intent) in enumerate(zip(messages, intents, strict=True)):
        if message.role not in ("user", "assistant") or message.role == previous:
            raise ValueError(f"message {position} has role {message.role!r} after {previous!r}; roles alternate")
        previous = message.role
        if message.role == "user":
            state = intent
            augmented.append(Message("user", message.text))
        else:
            chain = Chain(state, intent, message.text)
            augmented.append(Message("assistant", render(chain), message.text, chain))
    return augmented
