"""Output for the terminal. Text of models and people is never interpreted as markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.candidates import Candidate, utterance_start
from sage_dialog.studio.chat.conversation import Settings
from sage_dialog.studio.chat.terminal.commands import COMMANDS
from sage_dialog.studio.visible_text import visible

BLOCKS = "dim"
FAULT = "yellow"


def format_reply(text: str, blocks: bool, show_blocks: bool) -> Text:
    """Return a complete or partial reply, with its blocks dimmed on a line of their own or hidden.

    Text that cannot become blocks is always shown.
    """
    begin = utterance_start(text, blocks)
    formatted = Text()
    if begin and show_blocks:
        formatted.append(visible(text[:begin].rstrip(" ")) + ("\n" if text[begin:] else ""), style=BLOCKS)
    return formatted.append(visible(text[begin:]))


def format_fault(reply: Candidate) -> Text | None:
    """Return why a reply is invalid."""
    return None if reply.invalid_reason is None else Text(f"({visible(reply.invalid_reason)})", style=FAULT)


def candidates_table(replies: Sequence[Candidate], blocks: bool) -> Table:
    """Return a table with a row for each candidate, counted from 1: its action, if it writes blocks, and its text."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), expand=False)
    table.add_column("", justify="right", no_wrap=True)
    if blocks:
        table.add_column("action", style=BLOCKS, ratio=2)
    table.add_column("reply", ratio=5)
    for number, reply in enumerate(replies, start=1):
        text = Text(visible(reply.message.text))
        if (fault := format_fault(reply)) is not None:
            text.append(" ").append_text(fault)
        intent = reply.chain and reply.chain.action
        parts = (intent.motivation, intent.emotion, ", ".join(intent.topics)) if intent else (None,)
        action = [Text(visible(" · ".join(part or "–" for part in parts)))] if blocks else []
        table.add_row(Text(str(number)), *action, text)
    return table


def format_steering(steering: Steering) -> Text:
    """Return one line for each boost and each fixed value."""
    scale = " (raw logits)" if steering.boost_scale == "logits" else ""
    lines = [
        f"boost {field} {keyword} {weight:+g}{scale}"
        for field, weights in steering.boosts.items()
        for keyword, weight in weights.items()
    ]
    for field, value in steering.fixed.items():
        text = ", ".join(value) if isinstance(value, tuple) else value
        lines.append(f"fix   {field} {text or 'null'}")
    return Text("\n".join(map(visible, lines)) or "Nothing is steered.")


def format_sampling(seed: int, sampling: SamplingConfig) -> str:
    """Return the seed and the sampling on one line."""
    limit = f"up to {sampling.max_new_tokens} tokens a reply"
    return f"seed {seed}, temperature {sampling.temperature:g}, top-k {sampling.top_k}, {limit}"


def format_status(policy: str, context_left: int | None) -> str:
    """Return the line below the prompt."""
    return policy if context_left is None else f"{policy} · {context_left:,} tokens of context left"


def settings_table(policy: str, seed: int, settings: Settings, context_left: int | None, window: int) -> Table:
    """Return all settings, and how many tokens of the context are left."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    left = "unknown" if context_left is None else f"{context_left:,} of {window:,} tokens left"
    for name, value in (
        ("policy", policy),
        ("sampling", format_sampling(seed, settings.sampling)),
        ("system prompt", settings.system_prompt or "none"),
        ("steering", format_steering(settings.steering).plain),
        ("context", left),
    ):
        table.add_row(name, Text(visible(value)))
    return table


def commands_table() -> Table:
    """Return the list of commands."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, command in COMMANDS.items():
        table.add_row(Text(f"/{name} {command.usage}".rstrip(), style="bold"), Text(command.description))
    table.add_row(Text("//…", style="bold"), Text("send a text that begins with a slash"))
    return table
