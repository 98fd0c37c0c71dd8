"""A chain while it is being written: which field is under way, and what may still follow.

Some values may be given beforehand; they stand in the form as its own signs do, and only the others are free.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count

from sage_dialog.sac.chain import _LABEL, _NULL, ACTION_PREFIX, STATE_PREFIX, Chain, Intent, _checked_label, render

FIELDS = tuple(
    f"{prefix}_{name}" for prefix in (STATE_PREFIX, ACTION_PREFIX) for name in ("motivation", "emotion", "topic")
)
"""The names of the six values, in the order in which they are written."""

Value = str | tuple[str, ...] | None
"""A label or None; for a topic field a tuple of labels."""

_MARK = "■"
_MARKED = Intent(_MARK, _MARK, (_MARK,))
_LITERALS = tuple(render(Chain(_MARKED, _MARKED, "")).split(_MARK))
_LABEL_LETTERS = re.compile(_LABEL)


@dataclass(frozen=True)
class Form:
    """The text form with the values of some fields given: `literals[i]`, then a value of `fields[i]`, and so on.

    The last literal ends with the space before the utterance.
    """

    literals: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def given(cls, values: Mapping[str, Value]) -> Form:
        """Raises ValueError where a field is unknown or a value is none that the field can hold."""
        if unknown := sorted(set(values) - set(FIELDS)):
            raise ValueError(f"{unknown[0]!r} is no field of the form, which has {', '.join(FIELDS)}")
        literals, free = [_LITERALS[0]], []
        for field, literal in zip(FIELDS, _LITERALS[1:], strict=True):
            if field in values:
                literals[-1] += _value_text(field, values[field]) + literal
            else:
                free.append(field)
                literals.append(literal)
        return cls(tuple(literals), tuple(free))

    def start(self) -> Progress:
        return Progress(self, 0, "")

    def text(self, values: Mapping[str, str], utterance: str) -> str:
        """The form with the free values as given, as text."""
        middle = (values[field] + literal for field, literal in zip(self.fields, self.literals[1:], strict=True))
        return self.literals[0] + "".join(middle) + utterance


@dataclass(frozen=True)
class Progress:
    """How far a message has come: into literal `part // 2` of the form (even) or the free field after it (odd).

    `written` is what stands of that part. The part after the last literal is the utterance.
    """

    form: Form
    part: int
    written: str

    @property
    def field(self) -> str | None:
        """The free field whose value is being written."""
        return self.form.fields[self.part // 2] if self.part % 2 and not self.in_utterance else None

    @property
    def in_utterance(self) -> bool:
        return self.part == 2 * len(self.form.literals) - 1

    @property
    def may_end(self) -> bool:
        """Whether a message that ends here parses."""
        return self.in_utterance or (self.part == 2 * len(self.form.literals) - 2 and self.due == " ")

    @property
    def due(self) -> str:
        """What must follow to the letter: the rest of a literal, the space after a comma between topics."""
        if self.part % 2 == 0:
            return self.form.literals[self.part // 2][len(self.written) :]
        return " " if self.written.endswith(",") else ""

    @property
    def label(self) -> str:
        """What stands of the label under way."""
        return "" if self.field is None or self.due else self.written.rpartition(", ")[2]

    @property
    def topics(self) -> tuple[str, ...]:
        """The labels of the list under way that are whole, the one under way not among them."""
        if self.field is None:
            return ()
        whole = self.written.removesuffix(",") if self.due else self.written.rpartition(", ")[0]
        return tuple(whole.split(", ")) if whole else ()

    def label_may_end(self) -> bool:
        """Whether what stands of the label under way is a whole label."""
        label = self.label
        listed = self.field is not None and is_list(self.field)
        return bool(label) and not label[-1].isspace() and not (listed and label == _NULL)

    def openings(self) -> Iterator[tuple[str, str, str]]:
        """Where a label may go on or begin next: (field, what must be written before it, what stands of it)."""
        if self.in_utterance:
            return
        field, following = self.field, self.part // 2 + (self.part % 2)
        if field is None:
            if following < len(self.form.fields):
                yield self.form.fields[following], self.due, ""
            return
        yield field, self.due, self.label
        whole = self.label_may_end()
        if whole and is_list(field):
            yield field, ", ", ""
        if following < len(self.form.fields) and (whole or (is_list(field) and not self.written)):
            yield self.form.fields[following], self.form.literals[following], ""

    def likeness(self, words: Collection[str] = ()) -> Progress:
        """The one progress that stands for all that can go on alike, as far as these words are concerned.

        Kept of a value are a label that begins one of the words, and the topics that are among them.
        """
        if self.field is None:
            return self
        known = {*words, _NULL}
        other = next(
            letter for letter in map(chr, count(ord("一"))) if not any(word.startswith(letter) for word in known)
        )
        label = self.label
        if not any(word.startswith(label) for word in known):
            label = f"{other} " if label[-1].isspace() else other
        topics = sorted(known.intersection(self.topics)) or [other] * bool(self.topics)
        return replace(self, written=", ".join([*topics, label]).removesuffix(self.due))

    def feed(self, text: str) -> Progress | None:
        """The progress after more of the message; None where no message that begins so parses."""
        progress: Progress | None = self
        position = 0
        while progress is not None and position < len(text) and not progress.in_utterance:
            if progress.part % 2 == 0:
                taken = min(len(progress.due), len(text) - position)
                progress = progress._literal(text[position : position + taken])
            else:
                letters = None if progress.due else _LABEL_LETTERS.match(text, position)
                taken = len(letters.group()) if letters else 1
                progress = progress._value(text[position : position + taken], bool(letters))
            position += taken
        return progress

    def _literal(self, text: str) -> Progress | None:
        if not self.due.startswith(text):
            return None
        if len(text) == len(self.due):
            return Progress(self.form, self.part + 1, "")
        return replace(self, written=self.written + text)

    def _value(self, text: str, letters: bool) -> Progress | None:
        """After letters of a label, or one sign between labels or behind them."""
        field = str(self.field)
        if letters:
            return None if not self.label and text[0].isspace() else replace(self, written=self.written + text)
        if self.due:
            return replace(self, written=self.written + text) if text == self.due else None
        whole = self.label_may_end()
        if text == self.form.literals[self.part // 2 + 1][0] and (whole or (is_list(field) and not self.written)):
            return Progress(self.form, self.part + 1, text)
        return replace(self, written=self.written + text) if text == "," and whole and is_list(field) else None


def is_list(field: str) -> bool:
    """Whether the field holds a list of labels."""
    return field.endswith("_topic")


def is_label_text(text: str) -> bool:
    """Whether a text may stand inside a label: it has a letter and no sign that the form reserves."""
    return _LABEL_LETTERS.fullmatch(text) is not None


def _value_text(field: str, value: Value) -> str:
    if is_list(field):
        if not isinstance(value, tuple):
            raise ValueError(f"{field} takes a list of labels, which may be empty, not {value!r}")
        return ", ".join(_checked_label(field, topic) for topic in value)
    if isinstance(value, tuple):
        raise ValueError(f"{field} takes one label or null, not {list(value)!r}")
    return _NULL if value is None else _checked_label(field, value)
