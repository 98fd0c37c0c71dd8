"""What a line means that a person types: something said, or a command with what stands behind it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from sage_dialog.sac.grammar import FIELDS, is_list_field


class Bare(Enum):
    """Commands that take nothing."""

    CANDIDATES = auto()
    RETRY = auto()
    UNDO = auto()
    NEW = auto()
    STEERING = auto()
    HELP = auto()
    QUIT = auto()


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Boost:
    field: str
    keyword: str
    weight: float


@dataclass(frozen=True)
class Fix:
    field: str
    value: str | tuple[str, ...] | None


@dataclass(frozen=True)
class Clear:
    field: str | None


@dataclass(frozen=True)
class Pick:
    number: int


@dataclass(frozen=True)
class Blocks:
    shown: bool


@dataclass(frozen=True)
class Save:
    path: Path


Action = Bare | Say | Boost | Fix | Clear | Pick | Blocks | Save


@dataclass(frozen=True)
class Command:
    """How a command is written, what it does, and how what stands behind it is read."""

    usage: str
    what: str
    read: Callable[[str], Action]


def read_line(line: str) -> Action | None:
    """What a line asks for; None for one that is empty. To say what begins with a slash, begin with two.

    Raises:
        ValueError: if it is no command that is known, or not written as it should be.
    """
    text = line.strip()
    if not text:
        return None
    if not text.startswith("/") or text.startswith("//"):
        return Say(text.removeprefix("/"))
    name, _, rest = text[1:].partition(" ")
    if name not in COMMANDS:
        raise ValueError(f"There is no command /{name}{_meant(name, COMMANDS, '/')}; /help lists them.")
    return COMMANDS[name].read(rest.strip())


def _bare(action: Bare) -> Callable[[str], Bare]:
    def read(rest: str) -> Bare:
        if rest:
            raise ValueError(f"/{action.name.lower()} takes nothing, and {rest!r} stands behind it.")
        return action

    return read


def _boost(rest: str) -> Boost:
    field, _, keyword_and_weight = rest.partition(" ")
    keyword, _, weight = keyword_and_weight.strip().rpartition(" ")
    if not keyword:
        raise _wrong("boost", "a field, a keyword and how strongly", "/boost a_motivation humor 4")
    try:
        strength = float(weight)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise ValueError(f"{weight!r} is no number; a boost ends with one, as in /boost a_motivation humor 4")
    return Boost(_field(field), " ".join(keyword.split()), strength)


def _fix(rest: str) -> Fix:
    field, _, value = rest.partition(" ")
    if not value.strip():
        raise _wrong("fix", "a field and its value", "/fix a_emotion playful")
    return Fix(_field(field), _value(field, value))


def _topics(rest: str) -> Fix:
    if not rest:
        raise _wrong("topics", "topics with commas between them", "/topics music, sport")
    return Fix("a_topic", _value("a_topic", rest))


def _value(field: str, text: str) -> str | tuple[str, ...] | None:
    """The word null is no label: it leaves the value out, and a list empty."""
    text = " ".join(text.split())
    if is_list_field(field):
        return () if text == "null" else tuple(item.strip() for item in text.split(",") if item.strip())
    return None if text == "null" else text


def _clear(rest: str) -> Clear:
    return Clear(_field(rest) if rest else None)


def _pick(rest: str) -> Pick:
    if not (rest.isascii() and rest.isdecimal()):
        raise _wrong("pick", "the number of a candidate", "/pick 3")
    return Pick(int(rest))


def _blocks(rest: str) -> Blocks:
    if rest not in ("on", "off"):
        raise _wrong("blocks", "on or off", "/blocks off")
    return Blocks(rest == "on")


def _save(rest: str) -> Save:
    if not rest:
        raise _wrong("save", "the name of a file", "/save talk.jsonl")
    return Save(Path(rest).expanduser())


def _field(name: str) -> str:
    if name not in FIELDS:
        raise ValueError(f"There is no field {name!r}{_meant(name, FIELDS)}; there are {', '.join(FIELDS)}.")
    return name


def _wrong(command: str, takes: str, example: str) -> ValueError:
    return ValueError(f"/{command} takes {takes}, as in {example}")


def _meant(word: str, known: Collection[str], sign: str = "") -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {sign}{near[0]}?" if near else ""


COMMANDS = {
    "boost": Command("FIELD KEYWORD WEIGHT", "make a keyword likelier; weight 0 takes it back", _boost),
    "fix": Command("FIELD VALUE", "give a field its value; null leaves it empty", _fix),
    "topics": Command("TOPIC, TOPIC", "the same as /fix a_topic", _topics),
    "clear": Command("[FIELD]", "steer no longer, or no longer in one field", _clear),
    "steering": Command("", "show what is boosted and fixed", _bare(Bare.STEERING)),
    "retry": Command("", "another reply in place of the last", _bare(Bare.RETRY)),
    "candidates": Command("", "draw many replies in place of the last", _bare(Bare.CANDIDATES)),
    "pick": Command("NUMBER", "go on with that candidate; right behind them the number alone will do", _pick),
    "undo": Command("", "take back what you said last, and the reply", _bare(Bare.UNDO)),
    "new": Command("", "begin a new conversation; steering stays", _bare(Bare.NEW)),
    "blocks": Command("on|off", "show or hide what the policy reads and means", _blocks),
    "save": Command("FILE", "write the conversation as a line of JSON that a training mix reads", _save),
    "help": Command("", "this list", _bare(Bare.HELP)),
    "quit": Command("", "leave, as Ctrl-D does", _bare(Bare.QUIT)),
}
"""By name, in the order in which they are listed."""
