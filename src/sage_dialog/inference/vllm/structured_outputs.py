"""The held form of the blocks as a regular expression, for vLLM's `structured_outputs` (docs/steering.md).

The expressions avoid look-ahead, which the backends of structured outputs lack.
"""

from __future__ import annotations

import re

from sage_dialog.sac.chain import NULL
from sage_dialog.sac.grammar import BlockGrammar, ValueLimits, is_list_field

_RESERVED = r"{}\[\],:\x00-\x1f\x7f\x85\u2028\u2029"  # without halves of surrogate pairs, which no server can write
_SPACES = r" \xa0\u1680\u2000-\u200a\u202f\u205f\u3000"


def reply_pattern(limits: ValueLimits, leading_space: bool) -> str:
    """Return a regular expression of the replies whose blocks parse, with values within the limits.

    Args:
        leading_space: whether a reply may begin with a space that decoding drops (SentencePiece).
    """
    grammar = BlockGrammar.with_values({})
    length, topics = limits.label_length or 0, limits.topics or 0
    label, topic = _label(length), _label_but_null(length)
    values = {
        field: f"({topic}(, {topic}){{0,{topics - 1}}})?" if is_list_field(field) else label for field in grammar.fields
    }
    escaped = [re.sub(r"([{}\[\]])", r"\\\1", literal) for literal in grammar.literals]
    blocks = "".join(literal + values[field] for field, literal in zip(grammar.fields, escaped[:-1], strict=True))
    closing = escaped[-1].removesuffix(" ")
    return rf"{' ?' if leading_space else ''}{blocks}{closing}( [\s\S]*)?"


def _label(length: int) -> str:
    """Return an expression of the labels of up to `length` characters."""
    return f"{_letter(_SPACES)}({_tail(length - 1)})?"


def _label_but_null(length: int) -> str:
    """Return the same without the word "null", letter by letter."""
    pattern = _tail(length - len(NULL))  # after the whole word
    for place in reversed(range(len(NULL))):
        left = length - place - 1
        # Another letter, which may be a space inside the label only; then anything.
        other = f"{_letter(_SPACES + NULL[place])}({_tail(left)})?"
        if place:
            other += f"|[{_SPACES}]{_tail(left)}"
        whole = place == len(NULL) - 1
        pattern = f"{other}|{NULL[place]}({pattern}){'' if whole else '?'}"
    return f"({pattern})"


def _tail(length: int) -> str:
    """Return an expression of the texts of 1 to `length` characters inside a label that do not end in a space."""
    return f"{_letter()}{{0,{length - 1}}}{_letter(_SPACES)}"


def _letter(without: str = "") -> str:
    return f"[^{_RESERVED}{without}]"
