"""The dialogue types, used from the corpora to the report: `Message`, and what each side of a dialogue sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage_dialog.sac.chain import Chain, Intent, render

UNREAD_OPENING = Intent("sharing")
"""The intent of a dialogue's opening as the user sees it where the agent wrote no state for it."""


@dataclass(frozen=True)
class Message:
    """One message of a dialogue.

    Attributes:
        role: "system", "user" or "assistant".
        content: what the speaker wrote, state and action blocks included.
        text: what the other side reads: `content` without its blocks. The same as `content` where none is given.
        chain: the parsed blocks of `content`; None where there are none or they do not parse.
    """

    role: str
    content: str
    text: str = None  # type: ignore[assignment]  # never None once built
    chain: Chain | None = None

    def __post_init__(self) -> None:
        if self.text is None:
            object.__setattr__(self, "text", self.content)


def agent_view(messages: Sequence[Message], system_prompt: str | None) -> tuple[dict[str, str], ...]:
    """Return a dialogue as the agent sees it, as chat messages: the user's text alone, its own messages with blocks.

    Source: paper §3.4.
    """
    view = _system(system_prompt)
    for message in messages:
        view.append({"role": message.role, "content": message.text if message.role == "user" else message.content})
    return tuple(view)


def user_view(messages: Sequence[Message], system_prompt: str | None, with_blocks: bool) -> tuple[dict[str, str], ...]:
    """Return a dialogue as the simulated user sees it, as chat messages with the roles exchanged (paper §3.4).

    The agent's blocks are hidden, with one exception: the state that the agent wrote for the opening becomes the intent
    of the opening, which the user has not written itself.

    Args:
        with_blocks: whether the simulated user writes blocks.
    """
    opening, *rest = messages
    first = opening.text
    if with_blocks:
        state = rest[0].chain.state if rest and rest[0].chain is not None else UNREAD_OPENING
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
