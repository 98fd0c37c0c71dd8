"""The dialogue types, used from the corpora to the report, and the views of a dialogue for agent and simulated user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage_dialog.sac.chain import Chain, Intent, render

DEFAULT_OPENING_INTENT = Intent("sharing")
"""The intent of the opening in the user's view where the agent wrote no state for it."""


@dataclass(frozen=True)
class Message:
    """One message of a dialogue.

    Attributes:
        role: "system", "user" or "assistant".
        content: the message as written, state and action blocks included.
        text: `content` without its blocks, which is all that the other side sees. Defaults to `content`.
        chain: the parsed blocks of `content`; None without blocks or where they do not parse.
    """

    role: str
    content: str
    text: str = None  # type: ignore[assignment]  # never None once built
    chain: Chain | None = None

    def __post_init__(self) -> None:
        if self.text is None:
            object.__setattr__(self, "text", self.content)


@dataclass(frozen=True)
class Dialogue:
    """A dialogue: an optional system message, then user and assistant messages."""

    id: str
    messages: tuple[Message, ...]


def agent_view(messages: Sequence[Message], system_prompt: str | None) -> tuple[dict[str, str], ...]:
    """Return the chat messages that the agent sees: the user's text, its own messages with blocks (paper §3.4)."""
    view = _system(system_prompt)
    for message in messages:
        view.append({"role": message.role, "content": message.text if message.role == "user" else message.content})
    return tuple(view)


def user_view(messages: Sequence[Message], system_prompt: str | None, with_blocks: bool) -> tuple[dict[str, str], ...]:
    """Return the chat messages that the simulated user sees, with the roles exchanged (paper §3.4).

    The agent's blocks are hidden, with one exception: the state that the agent wrote for the opening becomes the
    opening's intent, because the user has not written the opening itself.

    Args:
        with_blocks: whether the simulated user writes blocks.
    """
    opening, *rest = messages
    first = opening.text
    if with_blocks:
        state = rest[0].chain.state if rest and rest[0].chain is not None else DEFAULT_OPENING_INTENT
        first = render(Chain(Intent(), state, opening.text))
    view = [*_system(system_prompt), {"role": "assistant", "content": first}]
    for message in rest:
        if message.role == "user":
            view.append({"role": "assistant", "content": message.content})
        else:
            view.append({"role": "user", "content": message.text})
    return tuple(view)


def _system(system_prompt: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": system_prompt}] if system_prompt else []
