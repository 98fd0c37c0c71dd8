"""The grammar of the state and action blocks, and an incremental parser for a message that is being generated.

A grammar may have fixed values for some fields. They become part of its literal text; only the other fields are free.
It may limit the free values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count

from sage_dialog.sac.chain import (
    ACTION_PREFIX,
    LABEL_PATTERN,
    NULL,
    STATE_PREFIX,
    Chain,
    Intent,
    check_label,
    render,
)

FIELDS = tuple(
    f"{prefix}_{name}" for prefix in (STATE_PREFIX, ACTION_PREFIX) for name in ("motivation", "emotion", "topic")
)
"""The names of the six fields, in the order in which they are written."""

FieldValue = str | tuple[str, ...] | None
"""A label or None; for a topic field a tuple of labels."""

_MARK = "■"
_MARKED = Intent(_MARK, _MARK, (_MARK,))
_LITERALS = tuple(render(Chain(_MARKED, _MARKED, "")).split(_MARK))
_LABEL_LETTERS = re.compile(LABEL_PATTERN)


SHORTEST_LIMIT = 8
"""The least limit of a label's length: above that of the word "null", with which no topic ends."""


@dataclass(frozen=True)
class ValueLimits:
    """Limits of free values; None sets none.

    Attributes:
        label_length: characters of a label, at least `SHORTEST_LIMIT`.
        topics: labels of a list.
    """

    label_length: int | None = None
    topics: int | None = None


@dataclass(frozen=True)
class BlockGrammar:
    """The text form of the blocks: `literals[0]`, a value of `fields[0]`, `literals[1]`, and so on.

    The last literal ends with the space before the utterance.

    Attributes:
        literals: fixed text, fixed values included.
        fields: the free fields.
        limits: of their values.
    """

    literals: tuple[str, ...]
    fields: tuple[str, ...]
    limits: ValueLimits = ValueLimits()

    @classmethod
    def with_values(cls, values: Mapping[str, FieldValue], limits: ValueLimits = ValueLimits()) -> BlockGrammar:
        """Return the grammar with fixed values for some fields, which may be beyond the limits.

        Raises:
            ValueError: if a field is unknown or cannot hold its value.
        """
        if unknown := sorted(set(values) - set(FIELDS)):
            raise ValueError(f"{unknown[0]!r} is not a field of the blocks; the fields are {', '.join(FIELDS)}")
        literals, free = [_LITERALS[0]], []
        for field, literal in zip(FIELDS, _LITERALS[1:], strict=True):
            if field in values:
                literals[-1] += _value_text(field, values[field]) + literal
            else:
                free.append(field)
                literals.append(literal)
        return cls(tuple(literals), tuple(free), limits)

    def initial_state(self) -> ParserState:
        """Return the parser state at the start of a message."""
        return ParserState(self, 0, "")

    def render(self, values: Mapping[str, str], utterance: str) -> str:
        """Return a message with these texts as the values of the free fields."""
        middle = (values[field] + literal for field, literal in zip(self.fields, self.literals[1:], strict=True))
        return self.literals[0] + "".join(middle) + utterance


@dataclass(frozen=True)
class ParserState:
    """The position of a message in the grammar.

    Attributes:
        part: 2 * i in literal i, 2 * i + 1 in the free field after it. The part after the last literal is the
            utterance.
        consumed: the text of this part so far.
    """

    grammar: BlockGrammar
    part: int
    consumed: str

    @property
    def field(self) -> str | None:
        """The free field whose value is incomplete."""
        return self.grammar.fields[self.part // 2] if self.part % 2 and not self.in_utterance else None

    @property
    def in_utterance(self) -> bool:
        return self.part == 2 * len(self.grammar.literals) - 1

    @property
    def may_end(self) -> bool:
        """Whether a message that ends here parses."""
        return self.in_utterance or (self.part == 2 * len(self.grammar.literals) - 2 and self.required == " ")

    @property
    def required(self) -> str:
        """The text that must follow: the rest of a literal, or the space after a comma between topics."""
        if self.part % 2 == 0:
            return self.grammar.literals[self.part // 2][len(self.consumed) :]
        return " " if self.consumed.endswith(",") else ""

    @property
    def label(self) -> str:
        """The text so far of the label at this position."""
        return "" if self.field is None or self.required else self.consumed.rpartition(", ")[2]

    @property
    def topics(self) -> tuple[str, ...]:
        """The complete labels of the list at this position, without the incomplete one."""
        if self.field is None:
            return ()
        complete = self.consumed.removesuffix(",") if self.required else self.consumed.rpartition(", ")[0]
        return tuple(complete.split(", ")) if complete else ()

    @property
    def label_may_end(self) -> bool:
        """Whether `label` is a complete label."""
        label = self.label
        in_list = self.field is not None and is_list_field(self.field)
        return bool(label) and not label[-1].isspace() and not (in_list and label == NULL)

    @property
    def list_may_continue(self) -> bool:
        """Whether a comma and another label may follow the label at this position."""
        if self.field is None or not is_list_field(self.field):
            return False
        limit = self.grammar.limits.topics
        return self.label_may_end and (limit is None or len(self.topics) + 1 < limit)

    @property
    def closing_letters(self) -> str:
        """The characters that may follow the labels of the value at this position."""
        return self._following_letter + "," * is_list_field(str(self.field))

    @property
    def _following_letter(self) -> str:
        """The first character after the value at this position."""
        return self.grammar.literals[self.part // 2 + 1][0]

    @property
    def label_room(self) -> float:
        """The number of characters by which the label may grow."""
        limit = self.grammar.limits.label_length
        return math.inf if limit is None else limit - len(self.label)

    def label_positions(self) -> Iterator[tuple[str, str, str]]:
        """Yield where a label may continue or begin next: (field, text required before it, its text so far)."""
        if self.in_utterance:
            return
        field, following = self.field, self.part // 2 + (self.part % 2)
        if field is None:
            if following < len(self.grammar.fields):
                yield self.grammar.fields[following], self.required, ""
            return
        yield field, self.required, self.label
        complete = self.label_may_end
        if self.list_may_continue:
            yield field, ", ", ""
        if following < len(self.grammar.fields) and (complete or (is_list_field(field) and not self.consumed)):
            yield self.grammar.fields[following], self.grammar.literals[following], ""

    def canonical(self, keywords: Collection[str] = ()) -> ParserState:
        """Return the representative of all states with the same continuations, as far as these keywords matter.

        Of a value it keeps a label that is a prefix of a keyword, and the topics that are keywords; with limits the
        length of the label and the number of topics, too.
        """
        if self.field is None:
            return self
        known = {*keywords, NULL}
        other = next(
            letter for letter in map(chr, count(ord("一"))) if not any(word.startswith(letter) for word in known)
        )
        label = self.label
        if not any(word.startswith(label) for word in known):
            ending = " " if label[-1].isspace() else ""
            length = len(label) - len(ending) if self.grammar.limits.label_length else 1
            label = other * length + ending
        topics = sorted(known.intersection(self.topics))
        number = len(self.topics) if self.grammar.limits.topics else bool(self.topics)
        topics += [other] * (number - len(topics))
        return replace(self, consumed=", ".join([*topics, label]).removesuffix(self.required))

    def advance(self, text: str) -> ParserState | None:
        """Return the state after more text; None where no message with this beginning parses."""
        state: ParserState | None = self
        position = 0
        while state is not None and position < len(text) and not state.in_utterance:
            if state.part % 2 == 0:
                length = min(len(state.required), len(text) - position)
                state = state._advance_literal(text[position : position + length])
            else:
                letters = None if state.required else _LABEL_LETTERS.match(text, position)
                length = len(letters.group()) if letters else 1
                state = state._advance_value(text[position : position + length], bool(letters))
            position += length
        return state

    def _advance_literal(self, text: str) -> ParserState | None:
        if not self.required.startswith(text):
            return None
        if len(text) == len(self.required):
            return ParserState(self.grammar, self.part + 1, "")
        return replace(self, consumed=self.consumed + text)

    def _advance_value(self, text: str, letters: bool) -> ParserState | None:
        """Return the state after letters of a label, or after one character between or after labels."""
        field = str(self.field)
        longer = replace(self, consumed=self.consumed + text)
        if letters:
            blank = not self.label and text[0].isspace()
            completable = longer.label_room > 0 or (longer.label_room == 0 and longer.label_may_end)
            return None if blank or not completable else longer
        if self.required:
            return longer if text == self.required else None
        complete = self.label_may_end
        closes = text == self._following_letter
        if closes and (complete or (is_list_field(field) and not self.consumed)):
            return ParserState(self.grammar, self.part + 1, text)
        return longer if text == "," and self.list_may_continue else None


def is_list_field(field: str) -> bool:
    """Return whether the field holds a list of labels."""
    return field.endswith("_topic")


def is_label_text(text: str) -> bool:
    """Return whether a text may stand inside a label: not empty and without reserved characters."""
    return _LABEL_LETTERS.fullmatch(text) is not None


def first_reserved(text: str) -> str:
    """Return the first character of a text that is not inside a label; the text must have one."""
    letters = _LABEL_LETTERS.match(text)
    return text[letters.end() if letters else 0]


def _value_text(field: str, value: FieldValue) -> str:
    if is_list_field(field):
        if not isinstance(value, tuple):
            raise ValueError(f"{field} takes a list of labels, which may be empty, not {value!r}")
        return ", ".join(check_label(field, topic) for topic in value)
    if isinstance(value, tuple):
        raise ValueError(f"{field} takes one label or null, not {list(value)!r}")
    return NULL if value is None else check_label(field, value)
