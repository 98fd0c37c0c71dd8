"""The state-action chain (paper §3.2): its types and its text form.

An assistant message reads, exactly::

    {u_motivation: sharing, u_emotion: sad, u_topic: [holidays]} {a_motivation: empathy, …} That must be tough!

The first block is the *state* (what the agent reads in the user's last message), the second the *action* (what the
agent means to do). `render` writes this form and `parse` reads it; no other module depends on it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

STATE_PREFIX = "u"
ACTION_PREFIX = "a"

NULL = "null"
"""The text of a missing label."""

_RESERVED_CHARACTERS = r"{}\[\],:\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff"
_RESERVED = re.compile(rf"[{_RESERVED_CHARACTERS}]")
LABEL_PATTERN = rf"[^{_RESERVED_CHARACTERS}]+"


_BLOCKS = {
    prefix: re.compile(
        rf"\{{{prefix}_motivation: (?P<motivation>{LABEL_PATTERN}), {prefix}_emotion: (?P<emotion>{LABEL_PATTERN}), "
        rf"{prefix}_topic: \[(?P<topics>(?:{LABEL_PATTERN}(?:, {LABEL_PATTERN})*)?)\]\}}"
    )
    for prefix in (STATE_PREFIX, ACTION_PREFIX)
}


def check_label(field: str, value: str) -> str:
    """Return the label.

    Raises:
        ValueError: if it is empty, padded, the word "null", or contains a reserved character.
    """
    if value != value.strip() or not value:
        raise ValueError(f"{field} {value!r} is empty or has surrounding spaces; strip it first")
    if value == NULL:
        raise ValueError(f"{field} is the word 'null'; use None for a label that is not there")
    if found := _RESERVED.search(value):
        raise ValueError(f"{field} {value!r} holds {found.group()!r}, which the text form reserves")
    return value


@dataclass(frozen=True)
class Intent:
    """Motivation, emotion and topics of one utterance; None and () mean a missing value.

    Raises:
        ValueError: if a label is empty, padded, the word "null", or contains one of ``{ } [ ] , :``, a control
            character or half a surrogate pair. `normalize_label` turns any text into a valid label.
        TypeError: if topics are not a tuple. A bare string would be read as one topic per letter.
    """

    motivation: str | None = None
    emotion: str | None = None
    topics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.motivation is not None:
            check_label("motivation", self.motivation)
        if self.emotion is not None:
            check_label("emotion", self.emotion)
        if not isinstance(self.topics, tuple):
            raise TypeError(f"topics must be a tuple of labels, not {self.topics!r}")
        for topic in self.topics:
            check_label("topic", topic)


@dataclass(frozen=True)
class Chain:
    """One assistant message: the user's state, the agent's action, the utterance."""

    state: Intent
    action: Intent
    utterance: str


@dataclass(frozen=True)
class Unparsed:
    """A text that is not a chain, with the reason."""

    reason: str
    text: str


def normalize_label(text: str) -> str | None:
    """Return a valid label: lower case, with reserved characters and runs of space replaced by one space.

    Returns None for "null", "none", "n/a", and where nothing remains.
    """
    label = " ".join(_RESERVED.sub(" ", text).split()).lower()
    return None if label in {"", NULL, "none", "n/a"} else label


def render_block(prefix: str, intent: Intent) -> str:
    """Return the block ``{prefix_motivation: …, prefix_emotion: …, prefix_topic: […]}``."""
    return (
        f"{{{prefix}_motivation: {intent.motivation or NULL}, {prefix}_emotion: {intent.emotion or NULL}, "
        f"{prefix}_topic: [{', '.join(intent.topics)}]}}"
    )


def render(chain: Chain) -> str:
    """Return the text form of a chain. `parse` restores the chain, whatever the utterance contains."""
    state = render_block(STATE_PREFIX, chain.state)
    action = render_block(ACTION_PREFIX, chain.action)
    return f"{state} {action} {chain.utterance}"


def parse(text: str) -> Chain | Unparsed:
    """Read the chain of a message, without guessing.

    Only the two blocks at the start are read: braces, colons and newlines after them belong to the utterance. A text
    that ends with the action block is a chain with an empty utterance.
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
    """Return the block at `start` and its end, or the reason why there is none."""
    found = _BLOCKS[prefix].match(text, start)
    if found is None:
        form = f"{{{prefix}_motivation: …, {prefix}_emotion: …, {prefix}_topic: […]}}"
        return f"expected {form!r}, found {text[start : start + 60]!r}", start
    motivation, emotion = (None if found[name] == NULL else found[name] for name in ("motivation", "emotion"))
    topics = tuple(found["topics"].split(", ")) if found["topics"] else ()
    try:
        return Intent(motivation, emotion, topics), found.end()
    except ValueError as error:
        return str(error), start


def strip_blocks(text: str) -> str:
    """Return the utterance where the text is a chain, else the text unchanged."""
    chain = parse(text)
    return chain.utterance if isinstance(chain, Chain) else text
