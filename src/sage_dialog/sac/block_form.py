"""Other text forms of state and action blocks, in which policies from outside may write their chains.

A form is a template: the text of the blocks up to the utterance, with the fields in angle brackets::

    "(u_motivation: <u_motivation>, u_emotion: <u_emotion>) [a_motivation: <a_motivation>, a_emotion: <a_emotion>] "

A label ends where the text after its field begins; topics are separated by a comma and a space. A field that the form
does not have is null, or an empty list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from sage_dialog.sac.chain import ACTION_PREFIX, LABEL_PATTERN, NULL, STATE_PREFIX, Chain, Intent, Unparsed
from sage_dialog.sac.grammar import FIELDS, is_list_field

_FIELD = re.compile(r"<([^<>]*)>")


@dataclass(frozen=True)
class BlockForm:
    """The text form of the blocks by a template.

    Raises:
        ValueError: if the template is not a form, with the reason.
    """

    template: str

    def __post_init__(self) -> None:
        names = self._names
        if unknown := [name for name in names if name not in FIELDS]:
            raise ValueError(f"<{unknown[0]}> is not a field of the blocks; the fields are {', '.join(FIELDS)}")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"<{repeated[0]}> is there twice")
        if not any(name.startswith(f"{ACTION_PREFIX}_") for name in names):
            raise ValueError("it has no field of the action, such as <a_motivation>")
        for name, text in zip(names, self._texts[1:], strict=True):
            if not text.strip():
                raise ValueError(f"after <{name}> there is no text that ends its label, such as a comma or a bracket")
        if not self._texts[0].strip():
            raise ValueError(f"before <{names[0]}> there is no text by which blocks are recognized")

    def parse(self, text: str) -> Chain | Unparsed:
        """Read the chain of a message, without guessing: the blocks are exactly of this form."""
        found = self._pattern.match(text)
        if found is None:
            return Unparsed(f"expected blocks of the form {self.template!r}, found {text[:60]!r}", text)
        try:
            state, action = (self._intent(found, prefix) for prefix in (STATE_PREFIX, ACTION_PREFIX))
        except ValueError as error:
            return Unparsed(str(error), text)
        return Chain(state, action, text[found.end() :])

    def render(self, chain: Chain) -> str:
        """Return the text of a chain in this form; `parse` restores the fields that the form has."""
        intents = {STATE_PREFIX: chain.state, ACTION_PREFIX: chain.action}

        def value(field: re.Match[str]) -> str:
            prefix, _, name = field[1].partition("_")
            intent = intents[prefix]
            return ", ".join(intent.topics) if name == "topic" else getattr(intent, name) or NULL

        return _FIELD.sub(value, self.template) + chain.utterance

    @cached_property
    def _names(self) -> list[str]:
        return _FIELD.findall(self.template)

    @cached_property
    def _texts(self) -> list[str]:
        return _FIELD.split(self.template)[::2]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pattern = re.escape(self._texts[0])
        for name, text in zip(self._names, self._texts[1:], strict=True):
            label = rf"(?:(?!{re.escape(text)}){LABEL_PATTERN.removesuffix('+')})+"  # one letter at a time
            value = rf"(?:{label}(?:, {label})*)?" if is_list_field(name) else label
            pattern += rf"(?P<{name}>{value}){re.escape(text)}"
        return re.compile(pattern)

    def _intent(self, found: re.Match[str], prefix: str) -> Intent:
        values = {name.partition("_")[2]: found[name] for name in self._names if name.startswith(f"{prefix}_")}
        labels = {name: None if value == NULL else value for name, value in values.items() if name != "topic"}
        topics = values.get("topic")
        return Intent(labels.get("motivation"), labels.get("emotion"), tuple(topics.split(", ")) if topics else ())
