"""Parsing of an input line: a message, or a command with its arguments."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_dialog.sac.grammar import FIELDS, is_list_field

Action = tuple[Any, ...]
"""The name of a command and its arguments. A message is ("say", text), and /topics is a `fix`."""


@dataclass(frozen=True)
class Command:
    """A command; `parse` returns the action of its arguments, None where the command takes none."""

    usage: str
    description: str
    parse: Callable[[str], Action] | None = None


def parse_line(line: str) -> Action | None:
    """Return the action of a line; None for an empty one. Two slashes begin a message with one.

    Raises:
        ValueError: if the command is unknown or its arguments are invalid.
    """
    text = line.strip()
    if not text:
        return None
    if not text.startswith("/") or text.startswith("//"):
        return "say", text.removeprefix("/")
    name, rest = [*re.split(r"\s", text[1:], maxsplit=1), ""][:2]
    if name not in COMMANDS:
        raise ValueError(f"There is no command /{name}{_suggestion(name, COMMANDS, '/')}; /help lists all commands.")
    if parse := COMMANDS[name].parse:
        return parse(rest.strip())
    if rest.strip():
        raise ValueError(f"/{name} takes no arguments, not {rest.strip()!r}.")
    return (name,)


def _boost(rest: str) -> Action:
    field, _, keyword_and_weight = rest.partition(" ")
    keyword, _, weight = keyword_and_weight.strip().rpartition(" ")
    if not keyword:
        raise _usage_error("boost", "a field, a keyword and a weight", "/boost a_motivation humor 4")
    strength = _number(weight, "a boost ends with one", "/boost a_motivation humor 4")
    return "boost", _field(field), " ".join(keyword.split()), strength


def _fix(rest: str) -> Action:
    field, _, value = rest.partition(" ")
    if not value.strip():
        raise _usage_error("fix", "a field and its value", "/fix a_emotion playful")
    return "fix", _field(field), _value(field, value)


def _topics(rest: str) -> Action:
    if not rest:
        raise _usage_error("topics", "topics separated by commas", "/topics music, sport")
    return "fix", "a_topic", _value("a_topic", rest)


def _value(field: str, text: str) -> str | tuple[str, ...] | None:
    """Return a field's value; the word null means no label, or an empty list."""
    text = " ".join(text.split())
    if is_list_field(field):
        return () if text == "null" else tuple(item.strip() for item in text.split(",") if item.strip())
    return None if text == "null" else text


def _clear(rest: str) -> Action:
    return "clear", _field(rest) if rest else None


def _pick(rest: str) -> Action:
    if not (rest.isascii() and rest.isdecimal()):
        raise _usage_error("pick", "the number of a candidate", "/pick 3")
    return "pick", int(rest)


def _blocks(rest: str) -> Action:
    if rest not in ("on", "off"):
        raise _usage_error("blocks", "on or off", "/blocks off")
    return "blocks", rest == "on"


def _save(rest: str) -> Action:
    return "save", _path("save", rest)


def _load(rest: str) -> Action:
    return "load", _path("load", rest)


def _path(command: str, rest: str) -> Path:
    if not rest:
        raise _usage_error(command, "the name of a file", f"/{command} talk.jsonl")
    return Path(rest).expanduser()


def _edit(rest: str) -> Action:
    return "edit", rest or None


def _tokens(rest: str) -> Action:
    if not (rest.isascii() and rest.isdecimal() and len(rest) < 10):
        raise _usage_error("tokens", "a number of tokens", "/tokens 200")
    return "sampling", "max_new_tokens", int(rest)


def _temperature(rest: str) -> Action:
    return "sampling", "temperature", _number(rest, "/temperature takes one", "/temperature 0.7")


def _system(rest: str) -> Action:
    if not rest:
        raise _usage_error("system", "a system prompt, or null for none", "/system You listen.")
    return "system", None if rest == "null" else rest


def _number(text: str, rule: str, example: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a number; {rule}, as in {example}")
    return number


def _field(name: str) -> str:
    if name not in FIELDS:
        raise ValueError(f"There is no field {name!r}{_suggestion(name, FIELDS)}; the fields are {', '.join(FIELDS)}.")
    return name


def _usage_error(command: str, takes: str, example: str) -> ValueError:
    return ValueError(f"/{command} takes {takes}, as in {example}")


def _suggestion(word: str, known: Collection[str], sign: str = "") -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {sign}{near[0]}?)" if near else ""


COMMANDS = {
    "boost": Command("FIELD KEYWORD WEIGHT", "make a keyword more likely; weight 0 removes the boost", _boost),
    "fix": Command("FIELD VALUE", "fix the value of a field; null means none", _fix),
    "topics": Command("TOPIC, TOPIC", "fix the topics, as /fix a_topic", _topics),
    "clear": Command("[FIELD]", "remove all steering, or that of one field", _clear),
    "steering": Command("", "show boosts and fixed values"),
    "temperature": Command("NUMBER", "set the temperature; below 1 replies vary less", _temperature),
    "tokens": Command("NUMBER", "set the token limit of a reply, blocks included", _tokens),
    "system": Command("TEXT", "set the system prompt; null means none", _system),
    "settings": Command("", "show policy, sampling, system prompt, steering, and the context left"),
    "retry": Command("", "replace the last reply by another"),
    "edit": Command("[TEXT]", "replace your last message, and its reply by another", _edit),
    "candidates": Command("", "draw candidates for the last reply"),
    "pick": Command("NUMBER", "continue with a candidate; directly after /candidates the number suffices", _pick),
    "undo": Command("", "remove your last message and its reply"),
    "new": Command("", "start a new conversation; the settings remain"),
    "blocks": Command("on|off", "show or hide state and action blocks", _blocks),
    "save": Command("FILE", "save the conversation as a line of JSON for a training mix", _save),
    "load": Command("FILE", "continue a saved conversation", _load),
    "help": Command("", "list the commands"),
    "quit": Command("", "quit, like Ctrl-D"),
}
"""By name, in the order of /help."""
