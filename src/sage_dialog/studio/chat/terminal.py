"""The chat in a terminal, or on lines that a script pipes in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.shortcuts import CompleteStyle
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from sage_dialog.config import Steering
from sage_dialog.llm.requests import RequestFailedError, StopRunError, remove_surrogates
from sage_dialog.studio.chat import display
from sage_dialog.studio.chat import steering as steered
from sage_dialog.studio.chat.commands import (
    Action,
    Bare,
    Blocks,
    Boost,
    Clear,
    Fix,
    Pick,
    Save,
    Say,
    read_line,
)
from sage_dialog.studio.chat.completion import completions, learn
from sage_dialog.studio.chat.conversation import Conversation, Reply
from sage_dialog.studio.chat.record import Records

Read = Callable[[str], str]
"""Gives the next line for a prompt; raises EOFError where there is none."""

PROMPT = "› "


class Terminal:
    """Does what lines ask for, and shows what comes of it.

    Args:
        seed: the engine's, for what is saved.
        candidates: how many /candidates draws.
        known: values by field of annotated dialogues; those that replies have are added.
        console: where replies and what was asked for go.
        notes: where the rest goes: what was refused and why.
    """

    def __init__(
        self,
        conversation: Conversation,
        seed: int,
        candidates: int,
        known: dict[str, list[str]],
        console: Console,
        notes: Console,
    ) -> None:
        self._conversation = conversation
        self._seed = seed
        self._candidates = candidates
        self._known = known
        self._annotated = {field: frozenset(values) for field, values in known.items()}
        self._console = console
        self._notes = notes
        self._records = Records()
        self._show_blocks = True
        self._choosing = False

    def greet(self) -> None:
        """Says who is there, and how to ask for more."""
        talk = self._conversation
        config = f"seed {self._seed}, temperature {talk.sampling.temperature:g}, top-k {talk.sampling.top_k}"
        self._note(f"{talk.policy}, {config}. /help lists the commands, Ctrl-D leaves.")
        if talk.steering:
            _print(self._notes, display.steering(talk.steering))

    def run(self, read: Read, interactive: bool) -> int:
        """Until the lines end or /quit. Returns how many were refused.

        A person who presses Ctrl-C stops the reply or empties the line; a script ends by it.
        """
        refused = 0
        while True:
            try:
                line = read(self._prompt())
            except EOFError:
                return refused
            except KeyboardInterrupt:
                if not interactive:
                    raise
                continue
            try:
                if self._obey(self._action(line)):
                    return refused
            except KeyboardInterrupt:
                if not interactive:
                    raise
                self._note("Stopped; nothing of it is kept.")
            except (ValueError, RequestFailedError, StopRunError) as error:
                refused += 1
                self._note(str(error), display.FAULT)

    def _prompt(self) -> str:
        return f"pick 1-{len(self._conversation.offered)} {PROMPT}" if self._choosing else PROMPT

    def _action(self, line: str) -> Action | None:
        """What a line means here: behind candidates, a number alone is the one to go on with, until one is."""
        if self._choosing and line.strip().isdecimal():
            return Pick(int(line))
        self._choosing = False
        return read_line(line)

    def _obey(self, action: Action | None) -> bool:
        """Whether that was the last."""
        talk = self._conversation
        match action:
            case None:
                pass
            case Say(text):
                self._show_writing(lambda on_text: talk.say(text, on_text))
            case Bare.RETRY:
                self._show_writing(talk.retry)
            case Bare.CANDIDATES:
                self._show_candidates()
            case Pick(number):
                self._show(talk.pick(number))
                self._choosing = False
            case Bare.UNDO:
                self._note(f"Taken back: {talk.undo().user}")
            case Bare.NEW:
                talk.begin_anew()
                self._note("A new conversation.")
            case Boost(field, keyword, weight):
                self._steer(steered.boosted(talk.steering, field, keyword, weight))
                self._note_unknown(field, (keyword,))
            case Fix(field, value):
                self._steer(steered.fixed(talk.steering, field, value))
                self._note_unknown(field, value if isinstance(value, tuple) else (value,) if value else ())
            case Clear(cleared):
                self._steer(steered.cleared(talk.steering, cleared))
            case Bare.STEERING:
                _print(self._console, display.steering(talk.steering))
            case Blocks(shown):
                self._show_blocks = shown
            case Save(path):
                self._save(path)
            case Bare.HELP:
                self._console.print(display.commands())
        return action is Bare.QUIT

    def _steer(self, steering: Steering) -> None:
        self._conversation.steer(steering)
        _print(self._notes, display.steering(steering))

    def _note_unknown(self, field: str, values: Sequence[str]) -> None:
        """Letters and spaces count in a label, so that a slip would steer to what the policy never learned."""
        for value in values:
            if (annotated := self._annotated.get(field)) and value not in annotated:
                self._note(f"No annotated dialogue has {field}: {value}. Tab shows what there is.")

    def _show_writing(self, draw: Callable[[Callable[[str], None] | None], Reply]) -> None:
        """A reply while it is drawn. What stands there when it is stopped stays on the screen, and nowhere else."""
        if not self._console.is_terminal:
            self._show(draw(None))
            return
        so_far = ""

        def on_text(piece: str) -> None:
            nonlocal so_far
            so_far += piece
            if shown := self._written(so_far):
                live.update(shown)

        try:
            with Live(Spinner("dots"), console=self._console, refresh_per_second=12, transient=True) as live:
                reply = draw(on_text)
        except BaseException:
            if so_far:
                _print(self._console, self._written(so_far))
            raise
        self._show(reply)

    def _show(self, reply: Reply) -> None:
        _print(self._console, self._written(reply.text))
        if reply.chain is not None:
            learn(self._known, reply.chain)
        if (fault := display.fault(reply)) is not None:
            _print(self._notes, fault)

    def _written(self, text: str) -> Text:
        return display.written(text, self._conversation.blocks, self._show_blocks)

    def _show_candidates(self) -> None:
        with self._notes.status(f"drawing {self._candidates} replies"):
            replies = self._conversation.draw_candidates(self._candidates)
        self._console.print(display.candidates(replies, self._conversation.blocks))
        self._choosing = True

    def _save(self, path: Path) -> None:
        talk = self._conversation
        where = self._records.save(talk, path, self._seed)
        self._note(f"Written to {where}")
        if faults := sum(exchange.reply.fault is not None for exchange in talk.exchanges):
            self._note(f"Replies in it with something wrong, which a policy would learn: {faults}", display.FAULT)

    def _note(self, text: str, style: str = "") -> None:
        _print(self._notes, Text(display.visible(text), style=style))


def _print(console: Console, text: Text) -> None:
    """A terminal's lines end between words; a file's are as they were written."""
    console.print(text, soft_wrap=not console.is_terminal)


def ask_person(history: Path, known: Mapping[str, Sequence[str]]) -> Read:
    """Lines from a person: with editing, the lines of earlier sessions from `history`, and completion by Tab."""
    history.parent.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(
        history=_Lines(history),
        completer=_Tab(known),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
    )
    return lambda prompt: remove_surrogates(session.prompt([("bold", prompt)]))


def read_lines(lines: Iterable[str]) -> Read:
    """Lines from a script."""
    coming = iter(lines)

    def read(prompt: str) -> str:
        for line in coming:
            return line
        raise EOFError

    return read


def piped_lines() -> Iterable[str]:
    """Standard input, in which a byte that is no UTF-8 becomes a replacement sign."""
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    return sys.stdin


class _Lines(FileHistory):
    def store_string(self, string: str) -> None:
        super().store_string(remove_surrogates(string))  # bytes that are no UTF-8 come as halves of surrogate pairs


class _Tab(Completer):
    def __init__(self, known: Mapping[str, Sequence[str]]) -> None:
        self._known = known
        self._annotated = {field: frozenset(values) for field, values in known.items()}
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor.lstrip()
        command, behind, rest = line.partition(" ")
        if command == "/save" and behind:
            yield from self._paths.get_completions(Document(rest.lstrip()), complete_event)
        for text, replaced in completions(line, self._known):
            yield Completion(display.visible(text), start_position=-replaced)
