"""A scripted policy, and a terminal on it whose screen is text."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from rich.console import Console
from scripted_engine import ScriptedEngine

from sage_dialog.config import SamplingConfig
from sage_dialog.inference.engine import Prompt, Sample
from sage_dialog.sac import Chain, Intent, render
from sage_dialog.studio.chat.conversation import Conversation
from sage_dialog.studio.chat.terminal import Terminal

Script = Callable[[Prompt, int], "str | Sample | None"]


def chained(text: str, means: str = "empathy") -> str:
    """A reply with its blocks."""
    return render(Chain(Intent("sharing", "sad", ("home",)), Intent(means, "calm", ("home",)), text))


def numbered(prompt: Prompt, sample: int) -> str:
    """Says which drawing it is, and how many messages it has seen."""
    return chained(f"turn {prompt.item[1]} draw {prompt.item[2]} sample {sample}")


@pytest.fixture
def talk() -> Callable[..., Conversation]:
    """A conversation with a policy that writes blocks unless told otherwise, and listens."""

    def make(script: Script = numbered, blocks: bool = True, refuses: str | None = None) -> Conversation:
        engine = ScriptedEngine(lambda policy, prompt, sample: script(prompt, sample), refuses)
        return Conversation(
            engine, "sage_7", blocks, SamplingConfig.from_base(max_new_tokens=50, top_k=100), "You listen."
        )

    return make


@dataclass
class Screen:
    """A terminal and what stands on it."""

    terminal: Terminal
    shown: io.StringIO
    noted: io.StringIO

    def run(self, *lines: str) -> int:
        """Lines as a script pipes them in; returns how many were refused."""
        coming: Iterator[str] = iter(lines)

        def read(prompt: str) -> str:
            try:
                return next(coming)
            except StopIteration:
                raise EOFError from None

        return self.terminal.run(read, interactive=False)


@pytest.fixture
def screen() -> Callable[..., Screen]:
    def make(talk: Conversation, known: dict[str, list[str]] | None = None, is_terminal: bool = False) -> Screen:
        shown, noted = io.StringIO(), io.StringIO()
        consoles = [Console(file=file, width=200, force_terminal=is_terminal) for file in (shown, noted)]
        return Screen(Terminal(talk, 3, 4, known or {}, *consoles), shown, noted)

    return make
