"""The policies to talk with, and their engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sage_dialog.inference.engine import PolicyEngine
from sage_dialog.studio.chat.conversation import Settings

MOST_ENGINES = 2
"""Engines that are kept open, as many as there are policies side by side."""


@dataclass(frozen=True)
class TalkPolicy:
    """A policy to talk with.

    Attributes:
        name: its name for people and the engine.
        blocks: whether it writes state and action blocks.
        settings: those that a conversation with it begins with.
        engine: names the engine; policies with one base can share it.
        open_engine: opens it. Raises ValueError if it cannot be opened.
        counts_tokens: whether the engine knows how many tokens of context are left.
    """

    name: str
    blocks: bool
    settings: Settings
    engine: str
    open_engine: Callable[[], PolicyEngine]
    counts_tokens: bool = True


class TalkPolicies:
    """Policies by name.

    Args:
        names: in the order of a list to choose from; the first is the default.
        find: returns a policy without reading its weights. Raises ValueError if it is not available.
    """

    def __init__(self, names: tuple[str, ...], find: Callable[[str], TalkPolicy]) -> None:
        self.names = names
        self._find = find
        self._found: dict[str, TalkPolicy] = {}
        self._engines: dict[str, PolicyEngine] = {}

    def get(self, name: str) -> TalkPolicy:
        """Return a policy. Raises ValueError if there is none of this name, or it is not available."""
        if name not in self.names:
            raise ValueError(f"There is no policy {name!r} to talk with.")
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def open(self, policy: TalkPolicy) -> PolicyEngine:
        """Return the engine of a policy, for the engine's thread. Raises ValueError if it cannot be opened."""
        engine = self._engines.pop(policy.engine, None)
        while engine is None and len(self._engines) >= MOST_ENGINES:
            del self._engines[next(iter(self._engines))]
        self._engines[policy.engine] = engine or policy.open_engine()
        return self._engines[policy.engine]
