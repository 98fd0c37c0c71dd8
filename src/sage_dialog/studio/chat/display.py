"""What is shown in the terminal. Everything that a model or a person wrote is text in it, never markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from sage_dialog.config import Steering
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.sac.grammar import BlockGrammar
from sage_dialog.studio.chat.commands import COMMANDS
from sage_dialog.studio.chat.conversation import Reply

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_FORM = BlockGrammar.with_values({}).initial_state()

BLOCKS = "dim"
FAULT = "yellow"


def visible(text: str) -> str:
    """The text with what could work on the terminal, or turn its letters around, written out: `\\x1b` for an escape.

    Line breaks and tabs stay.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def written(text: str, blocks: bool, show_blocks: bool) -> Text:
    """A reply, or as much of it as was written so far.

    The blocks stand dimmed on a line of their own, or are left out. What cannot be blocks any more is shown in any
    case.
    """
    begin = _utterance_begins(text) if blocks else 0
    shown = Text()
    if begin and show_blocks:
        shown.append(visible(text[:begin].rstrip(" ")) + ("\n" if text[begin:] else ""), style=BLOCKS)
    return shown.append(visible(text[begin:]))


def _utterance_begins(text: str) -> int:
    """Where the blocks at the beginning end; 0 where there are none and none can come."""
    chain = parse(text)
    if isinstance(chain, Chain):
        return len(text) - len(chain.utterance)
    return len(text) if _FORM.advance(text) is not None else 0


def fault(reply: Reply) -> Text | None:
    """What is wrong with a reply."""
    return None if reply.fault is None else Text(f"({visible(reply.fault)})", style=FAULT)


def candidates(replies: Sequence[Reply], blocks: bool) -> Table:
    """A row for each, counted from 1: what it means to do, where it tells, and what it says."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
    table.add_column("", justify="right", no_wrap=True)
    if blocks:
        table.add_column("means to", style=BLOCKS, ratio=2)
    table.add_column("says", ratio=5)
    for number, reply in enumerate(replies, start=1):
        said = Text(visible(reply.said))
        if (wrong := fault(reply)) is not None:
            said.append(" ").append_text(wrong)
        means = [Text(_intent(reply.chain.action) if reply.chain else "–")] if blocks else []
        table.add_row(Text(str(number)), *means, said)
    return table


def _intent(intent: Intent) -> str:
    parts = (intent.motivation or "–", intent.emotion or "–", ", ".join(intent.topics) or "–")
    return visible(" · ".join(parts))


def steering(set_now: Steering) -> Text:
    """What is boosted and fixed, a line each."""
    lines = [
        f"boost {field} {keyword} {weight:+g}"
        for field, weights in set_now.boosts.items()
        for keyword, weight in weights.items()
    ]
    for field, value in set_now.fixed.items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        lines.append(f"fix   {field} {shown or 'null'}")
    return Text("\n".join(map(visible, lines)) or "Nothing is steered.")


def commands() -> Table:
    """The list of commands."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, command in COMMANDS.items():
        table.add_row(Text(f"/{name} {command.usage}".rstrip(), style="bold"), Text(command.what))
    table.add_row(Text("//…", style="bold"), Text("say what begins with a slash"))
    return table
