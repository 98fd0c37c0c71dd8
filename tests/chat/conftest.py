"""A scripted policy, and a terminal on it whose screen is text."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from sage_dialog.chat.conversation import Conversation
from sage_dialog.chat.terminal import Terminal
from sage_dialog.generation.engine import Finish, Prompt, Sample
from sage_dialog.parameters import SamplingDials, Steering
from sage_dialog.sac import Chain, Intent, render

Script = Callable[[Prompt, int], "str | Sample | None"]


def chained(text: str, means: str = "empathy") -> str:
    """A reply with its blocks."""
    return render(Chain(Intent("sharing", "sad", ("home",)), Intent(means, "calm", ("home",)), text))


def numbered(prompt: Prompt, sample: int) -> str:
    """Says which drawing it is, and how many messages it has seen."""
    return chained(f"turn {prompt.item[1]} draw {prompt.item[2]} sample {sample}")


@dataclass
class ScriptedEngine:
    """Sample j of a prompt is `script(prompt, j)`; None where the context is full. It is heard in two pieces."""

    script: Script = numbered
    refuses: str | None = None  # to be steered, and why
    asked: list[tuple[Prompt, Steering | None]] = field(default_factory=list)
    decides: Mapping[str, object] = field(default_factory=dict)

    def sample(
        self,
        policy: str,
        prompts: Sequence[Prompt],
        sampling: SamplingDials,
        samples: int = 1,
        steering: Steering | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> list[list[Sample]]:
        if steering and self.refuses:
            raise ValueError(self.refuses)
        self.asked += [(prompt, steering) for prompt in prompts]
        replies = [[self._sample(prompt, j) for j in range(samples)] for prompt in prompts]
        if heard is not None:
            text = replies[0][0].text if replies[0][0] else ""
            heard(text[:20])
            heard(text[20:])
        return [[each for each in drawn if each is not None] for drawn in replies]

    def _sample(self, prompt: Prompt, j: int) -> Sample | None:
        said = self.script(prompt, j)
        return Sample(said, len(said.split()), Finish.STOP) if isinstance(said, str) else said


@pytest.fixture
def talk() -> Callable[..., Conversation]:
    """A conversation with a policy that writes blocks unless told otherwise, and listens."""

    def make(script: Script = numbered, blocks: bool = True, refuses: str | None = None) -> Conversation:
        engine = ScriptedEngine(script, refuses)
        return Conversation(engine, "sage_7", blocks, SamplingDials(max_new_tokens=50), "You listen.")

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
