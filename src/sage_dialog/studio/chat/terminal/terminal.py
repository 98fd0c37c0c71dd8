"""The chat in a terminal, or on lines piped in by a script."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from sage_dialog.config import Steering
from sage_dialog.inference.candidates import Candidate
from sage_dialog.inference.engine import OnText
from sage_dialog.llm.requests import RequestFailedError, StopRunError, remove_surrogates
from sage_dialog.studio.chat.conversation import ContextFullError, Conversation, add_boost, clear_field, fix_value
from sage_dialog.studio.chat.files import load_conversation, save_conversation
from sage_dialog.studio.chat.terminal import display
from sage_dialog.studio.chat.terminal.commands import parse_line
from sage_dialog.studio.chat.terminal.completion import add_values, completions
from sage_dialog.studio.visible_text import CONTROLS, visible

PROMPT, CONTINUATION = "› ", "… "


class ReadLine(Protocol):
    """Returns the next line; raises EOFError at the end."""

    def __call__(self, prompt: str, default: str = "", status: str = "") -> str:
        """Return the line typed at a prompt, which begins with `default`; `status` is shown below it."""
        ...


class Terminal:
    """Runs the actions of input lines and shows the results.

    Args:
        seed: the engine's, for saved conversations.
        candidates: number of candidates of /candidates.
        known: values by field of annotated dialogues; values in replies are added.
        console: for replies and requested output.
        notes: for everything else, such as errors.
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
        self._conversation, self._seed, self._candidates = conversation, seed, candidates
        self._known = known
        self._annotated = {field: frozenset(values) for field, values in known.items()}
        self._console, self._notes = console, notes
        self._saved: set[Path] = set()
        self._show_blocks = True
        self._picking = False

    def greet(self, examples: Sequence[str] = ()) -> None:
        """Show the policy, the sampling, how to get help, and messages to begin with."""
        config = display.format_sampling(self._seed, self._conversation.settings.sampling)
        self._note(f"{self._conversation.policy}, {config}.")
        self._note("/help lists the commands, Alt-Enter begins a new line, Ctrl-C stops a reply, Ctrl-D quits.")
        for text in examples:
            self._note(f"A held-out situation, as a first message: {text}")
        if steering := self._conversation.settings.steering:
            _print(self._notes, display.format_steering(steering))

    def run(self, read: ReadLine, interactive: bool) -> int:
        """Run lines until their end or /quit, and return the number of errors.

        A line that ends with a backslash goes on in the next. Ctrl-C stops a reply or clears the line if `interactive`,
        else it ends the run.
        """
        errors = 0
        while True:
            try:
                line = self._read(read)
            except EOFError:
                return errors
            except KeyboardInterrupt:
                if not interactive:
                    raise
                continue
            turns = self._conversation.turns
            try:
                if self._run_line(line, read):
                    return errors
            except KeyboardInterrupt:
                if not interactive:
                    raise
                kept = self._conversation.turns is not turns
                self._note(
                    "Stopped; the reply so far is kept. /retry draws another, /undo removes it."
                    if kept
                    else "Stopped before anything was said; nothing is kept, and ↑ brings your message back."
                )
            except (ValueError, RequestFailedError, StopRunError) as error:
                errors += 1
                self._note(str(error), display.FAULT)
                if isinstance(error, ContextFullError) and not error.message_alone:
                    self._note("/undo removes a turn, /new starts a new conversation, /tokens limits the reply.")

    def _read(self, read: ReadLine) -> str:
        talk = self._conversation
        prompt = f"pick 1-{len(talk.candidates)} {PROMPT}" if self._picking else PROMPT
        line = read(prompt, status=display.format_status(talk.policy, talk.context_left))
        while line.rstrip("\n").endswith("\\"):
            try:
                following = read(CONTINUATION)
            except EOFError:
                following = ""
            line = line.rstrip("\n").removesuffix("\\") + "\n" + following
        return line

    def _run_line(self, line: str, read: ReadLine) -> bool:
        """Run a line and return whether it is /quit; after /candidates a number alone picks one."""
        talk = self._conversation
        self._picking = self._picking and line.strip().isdecimal()
        action = ("pick", int(line)) if self._picking else parse_line(line)
        steering = talk.settings.steering
        match action:
            case "say", text:
                self._stream(lambda on_text: talk.say(text, on_text))
            case ("retry",):
                self._stream(talk.retry)
            case "edit", text:
                edited = text or read(f"edit {PROMPT}", default=talk.last.user).strip()
                if edited:
                    self._stream(lambda on_text: talk.edit(edited, on_text))
            case ("candidates",):
                with self._notes.status(f"drawing {self._candidates} replies"):
                    replies = talk.draw_candidates(self._candidates)
                self._console.print(display.candidates_table(replies, talk.blocks))
                self._picking = True
            case "pick", number:
                self._show(talk.pick(number))
                self._picking = False
            case ("undo",):
                self._note(f"Removed: {talk.undo().user}")
            case ("new",):
                talk.clear()
                self._note("A new conversation.")
            case "boost", field, keyword, weight:
                self._steer(add_boost(steering, field, keyword, weight))
                self._note_unknown(field, (keyword,))
            case "fix", field, value:
                self._steer(fix_value(steering, field, value))
                self._note_unknown(field, value if isinstance(value, tuple) else (value,) if value else ())
            case "clear", cleared:
                self._steer(clear_field(steering, cleared))
            case ("steering",):
                _print(self._console, display.format_steering(steering))
            case "sampling", name, number:
                talk.set_sampling(**{name: number})
                self._note(display.format_sampling(self._seed, talk.settings.sampling))
            case "system", system_prompt:
                talk.set_system_prompt(system_prompt)
                self._note("The policy sees it from the next reply on." if system_prompt else "No system prompt.")
            case ("settings",):
                lines = (talk.policy, self._seed, talk.settings, talk.context_left, talk.engine.window)
                self._console.print(display.settings_table(*lines))
            case "blocks", shown:
                self._show_blocks = shown
            case "save", path:
                self._note(f"Written to {save_conversation(talk, path, self._seed, self._saved)}")
                if invalid := sum(not turn.reply.valid for turn in talk.turns):
                    self._note(f"Invalid replies in it, which a policy would learn: {invalid}", display.FAULT)
            case "load", path:
                for note in load_conversation(talk, path, self._seed):
                    self._note(note)
                for turn in talk.turns:
                    _print(self._console, Text(f"{PROMPT}{visible(turn.user)}", style="bold"))
                    self._show(turn.reply)
                self._note(f"{len(talk.turns)} turns; /settings shows the settings.")
            case ("help",):
                self._console.print(display.commands_table())
        return action == ("quit",)

    def _steer(self, steering: Steering) -> None:
        self._conversation.steer(steering)
        _print(self._notes, display.format_steering(steering))

    def _note_unknown(self, field: str, values: Sequence[str]) -> None:
        """Warn of values outside the annotations, such as typing errors, which the policy never learned."""
        for value in values:
            if (annotated := self._annotated.get(field)) and value not in annotated:
                self._note(f"No annotated dialogue has {field}: {value}. Tab shows the known values.")

    def _stream(self, draw: Callable[[OnText | None], Candidate]) -> None:
        """Show a reply while it is drawn. The part of a stopped or failed reply remains on the screen."""
        if not self._console.is_terminal:
            self._show(draw(None))
            return
        so_far = ""

        def on_text(piece: str) -> None:
            nonlocal so_far
            so_far += piece
            if formatted := self._format(so_far):
                live.update(formatted)

        try:
            with Live(Spinner("dots"), console=self._console, refresh_per_second=12, transient=True) as live:
                reply = draw(on_text)
        except BaseException:
            if so_far:
                _print(self._console, self._format(so_far))
            raise
        self._show(reply)

    def _show(self, reply: Candidate) -> None:
        _print(self._console, self._format(reply.text))
        if reply.chain is not None:
            add_values(self._known, reply.chain)
        if (fault := display.format_fault(reply)) is not None:
            _print(self._notes, fault)

    def _format(self, text: str) -> Text:
        return display.format_reply(text, self._conversation.blocks, self._show_blocks)

    def _note(self, text: str, style: str = "") -> None:
        _print(self._notes, Text(visible(text), style=style))


def _print(console: Console, text: Text) -> None:
    """Print with line wrapping on a terminal only."""
    console.print(text, soft_wrap=not console.is_terminal)


def prompt_lines(history: Path, known: Mapping[str, Sequence[str]]) -> ReadLine:
    """Return a reader of lines from a person, with editing, a history file and completion by Tab.

    Enter ends the line; Alt-Enter and pasted line breaks belong to it.
    """
    history.parent.mkdir(parents=True, exist_ok=True)
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add(Keys.Vt100MouseEvent)
    def _(event: KeyPressEvent) -> None:
        pass  # what looks like one in a pasted text, such as a colour, is no event

    session: PromptSession[str] = PromptSession(
        history=_Lines(history),
        completer=_Tab(known),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        multiline=True,
        key_bindings=keys,
        prompt_continuation=lambda width, line, wraps: "" if wraps else CONTINUATION,
        style=Style.from_dict({"bottom-toolbar": "noreverse", "bottom-toolbar.text": "fg:ansibrightblack"}),
        reserve_space_for_menu=0,
        input_processors=[Masked()],
    )

    def read(prompt: str, default: str = "", status: str = "") -> str:
        shown = visible(status) or None
        return remove_surrogates(session.prompt([("bold", prompt)], default=default, bottom_toolbar=shown))

    return read


def piped_lines() -> ReadLine:
    """Return a reader of standard input, which replaces invalid UTF-8."""
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]

    def read(prompt: str, default: str = "", status: str = "") -> str:
        if line := sys.stdin.readline():
            return line
        raise EOFError

    return read


class Masked(Processor):
    """Shows a character of `CONTROLS` in the line that is typed as one sign; the line keeps it."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        shown = [(part[0], CONTROLS.sub("\ufffd", part[1])) for part in transformation_input.fragments]
        return Transformation([*shown])


class _Lines(FileHistory):
    def store_string(self, string: str) -> None:
        super().store_string(remove_surrogates(string))  # invalid UTF-8 arrives as surrogates


class _Tab(Completer):
    def __init__(self, known: Mapping[str, Sequence[str]]) -> None:
        self._known = known
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor.lstrip()
        command, space, rest = line.partition(" ")
        if command in ("/save", "/load") and space:
            yield from self._paths.get_completions(Document(rest.lstrip()), complete_event)
        for text, replaced in completions(line, self._known):
            yield Completion(visible(text), start_position=-replaced)
