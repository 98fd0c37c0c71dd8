"""A conversation with a scripted policy, and a terminal whose screen is text."""

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
from sage_dialog.studio.chat.conversation import Conversation, Settings
from sage_dialog.studio.chat.terminal.terminal import Terminal

Script = Callable[[Prompt, int], "str | Sample | None"]


def reply_with_blocks(text: str, motivation: str = "empathy") -> str:
    """A reply with its blocks."""
    return render(Chain(Intent("sharing", "sad", ("home",)), Intent(motivation, "calm", ("home",)), text))


def numbered_reply(prompt: Prompt, sample: int) -> str:
    """Return a reply with its turn, draw and sample numbers."""
    return reply_with_blocks(f"turn {prompt.item[1]} draw {prompt.item[2]} sample {sample}")


@pytest.fixture
def talk() -> Callable[..., Conversation]:
    """A function that opens a conversation with a scripted policy, with blocks by default."""

    def make(script: Script = numbered_reply, blocks: bool = True, steering_error: str | None = None) -> Conversation:
        engine = ScriptedEngine(lambda policy, prompt, sample: script(prompt, sample), steering_error)
        sampling = SamplingConfig.from_base(max_new_tokens=50, top_k=100)
        return Conversation(engine, "sage_7", blocks, Settings(sampling=sampling, system_prompt="You listen."))

    return make


@dataclass
class Screen:
    """A terminal with its standard output and notes."""

    terminal: Terminal
    output: io.StringIO
    notes: io.StringIO

    def run(self, *lines: str) -> int:
        """Run the lines as a script and return the number of refused ones."""
        remaining: Iterator[str] = iter(lines)

        def read(prompt: str, default: str = "", status: str = "") -> str:
            try:
                return next(remaining)
            except StopIteration:
                raise EOFError from None

        return self.terminal.run(read, interactive=False)


@pytest.fixture
def screen() -> Callable[..., Screen]:
    def make(talk: Conversation, known: dict[str, list[str]] | None = None, is_terminal: bool = False) -> Screen:
        output, notes = io.StringIO(), io.StringIO()
        consoles = [Console(file=file, width=200, force_terminal=is_terminal) for file in (output, notes)]
        return Screen(Terminal(talk, 3, 4, known or {}, *consoles), output, notes)

    return make
