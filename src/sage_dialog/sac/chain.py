"""The state-action chain (paper §3.2): its types and its one text form.

An assistant message reads, exactly::

    {u_motivation: sharing, u_emotion: sad, u_topic: [holidays]} {a_motivation: empathy, …} That must be tough!

The first block is the *state* (what the agent reads in the user's last message), the second the
*action* (what the agent means to do). `render` writes this form, `parse` reads it back; nothing else
in the project knows how it looks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

STATE_PREFIX = "u"
ACTION_PREFIX = "a"

_RESERVED_CHARACTERS = r"{}\[\],:\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff"
_RESERVED = re.compile(rf"[{_RESERVED_CHARACTERS}]")
_LABEL = rf"[^{_RESERVED_CHARACTERS}]+"
_NULL = "null"


def _block_pattern(prefix: str) -> re.Pattern[str]:
    return re.compile(
        rf"\{{{prefix}_motivation: (?P<motivation>{_LABEL}), {prefix}_emotion: (?P<emotion>{_LABEL}), "
        rf"{prefix}_topic: \[(?P<topics>(?:{_LABEL}(?:, {_LABEL})*)?)\]\}}"
    )


_BLOCKS = {prefix: _block_pattern(prefix) for prefix in (STATE_PREFIX, ACTION_PREFIX)}


def _checked_label(field: str, value: str) -> str:
    if value != value.strip() or not value:
        raise ValueError(f"{field} {value!r} is empty or has surrounding spaces; strip it first")
    if value == _NULL:
        raise ValueError(f"{field} is the word 'null'; use None for a label that is not there")
    if found := _RESERVED.search(value):
        raise ValueError(f"{field} {value!r} holds {found.group()!r}, which the text form reserves")
    return value


@dataclass(frozen=True)
class Intent:
    """Motivation, emotion and topics of one utterance; None and () mean "not there".

    Raises:
        ValueError: if a label is empty, padded, the word "null", or holds one of ``{ } [ ] , :``,
            a control character or half a surrogate pair. `normalised_label` makes any text fit.
        TypeError: if topics are no tuple: a bare string would be read as a topic for each letter.
    """

    motivation: str | None = None
    emotion: str | None = None
    topics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.motivation is not None:
            _checked_label("motivation", self.motivation)
        if self.emotion is not None:
            _checked_label("emotion", self.emotion)
        if not isinstance(self.topics, tuple):
            raise TypeError(f"topics are a tuple of labels, not {self.topics!r}")
        for topic in self.topics:
            _checked_label("topic", topic)


@dataclass(frozen=True)
class Chain:
    """One assistant message: the user's state, the agent's action, the words said."""

    state: Intent
    action: Intent
    utterance: str


@dataclass(frozen=True)
class Unparsed:
    """Why a text is not a chain, and the text itself."""

    reason: str
    text: str


def normalised_label(text: str) -> str | None:
    """A label that `Intent` takes: lower case, reserved characters and runs of space made one space.

    Returns None where nothing remains or the text says "null", "none" or "n/a".
    """
    label = " ".join(_RESERVED.sub(" ", text).split()).lower()
    return None if label in {"", _NULL, "none", "n/a"} else label


def render_block(prefix: str, intent: Intent) -> str:
    """The block ``{prefix_motivation: …, prefix_emotion: …, prefix_topic: […]}``."""
    return (
        f"{{{prefix}_motivation: {intent.motivation or _NULL}, {prefix}_emotion: {intent.emotion or _NULL}, "
        f"{prefix}_topic: [{', '.join(intent.topics)}]}}"
    )


def render(chain: Chain) -> str:
    """The text form of a chain; `parse` of it gives the chain back, whatever the utterance holds."""
    state = render_block(STATE_PREFIX, chain.state)
    action = render_block(ACTION_PREFIX, chain.action)
    return f"{state} {action} {chain.utterance}"


def parse(text: str) -> Chain | Unparsed:
    """Read a chain from a message; never guesses.

    Only the two blocks at the start are read: braces, colons and newlines after them belong to the
    utterance. A text that ends right behind the action block is a chain with an empty utterance.
    """
    state, end = _parse_block(STATE_PREFIX, text, 0)
    if isinstance(state, str):
        return Unparsed(f"state block: {state}", text)
    if text[end : end + 1] != " ":
        return Unparsed("action block: no space after the state block", text)
    action, end = _parse_block(ACTION_PREFIX, text, end + 1)
    if isinstance(action, str):
        return Unparsed(f"action block: {action}", text)
    if end < len(text) and text[end] != " ":
        return Unparsed("utterance: no space after the action block", text)
    return Chain(state, action, text[end + 1 :])


def _parse_block(prefix: str, text: str, start: int) -> tuple[Intent | str, int]:
    """The block at `start` and where it ends, or why there is none."""
    found = _BLOCKS[prefix].match(text, start)
    if found is None:
        form = f"{{{prefix}_motivation: …, {prefix}_emotion: …, {prefix}_topic: […]}}"
        return f"expected {form!r}, found {text[start : start + 60]!r}", start
    topics = tuple(found["topics"].split(", ")) if found["topics"] else ()
    try:
        return Intent(_label(found["motivation"]), _label(found["emotion"]), topics), found.end()
    except ValueError as error:
        return str(error), start


def _label(text: str) -> str | None:
    return None if text == _NULL else text
