"""A reply, complete or partial, as fields and words for people."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sage_dialog.inference.candidates import utterance_start
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.sac.grammar import FIELDS
from sage_dialog.studio.visible_text import visible

_VALUE = re.compile(r"\b([ua]_(?:motivation|emotion|topic)): (?:\[([^\]}]*)|([^,}\[]*))")


@dataclass(frozen=True)
class ReplyView:
    """A reply for people: nothing in its texts acts on a page.

    Attributes:
        fields: values by name; empty where the text has no blocks.
        words: what the policy says.
    """

    fields: dict[str, str]
    words: str


def view_reply(text: str, blocks: bool) -> ReplyView:
    """Return the fields and words of a complete or partial reply.

    Args:
        blocks: whether the policy writes state and action blocks.
    """
    if not blocks:
        return ReplyView({}, visible(text))
    if isinstance(chain := parse(text), Chain):
        return ReplyView(chain_fields(chain), visible(chain.utterance))
    if utterance_start(text, blocks) < len(text):
        return ReplyView({}, visible(text))
    values = {name: topics or value for name, topics, value in _VALUE.findall(text)}
    return ReplyView({name: visible(values.get(name, "")) for name in FIELDS}, "")


def chain_fields(chain: Chain) -> dict[str, str]:
    """Return the values of a chain by field; an en dash stands for none."""
    return intent_fields("u", chain.state) | intent_fields("a", chain.action)


def intent_fields(prefix: str, intent: Intent) -> dict[str, str]:
    """Return the values of an intent by field."""
    values = {"motivation": intent.motivation, "emotion": intent.emotion, "topic": ", ".join(intent.topics)}
    return {f"{prefix}_{name}": visible(value or "–") for name, value in values.items()}
