"""Where decisions are in a dialogue's tokens: each state block, and each action block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sage_dialog.inference.chat_format import ChatFormat, Messages
from sage_dialog.sac import Chain, parse
from sage_dialog.sac.chain import render_block


class Span(NamedTuple):
    """Tokens from the first to the last."""

    first: int
    last: int


class Decisions(NamedTuple):
    """A conversation up to a reply.

    Attributes:
        tokens: ids.
        spans: for each reply its state block, at whose end V is read, and its action block, at whose end Q is read.
            Without blocks these are the last token before the reply, and the whole reply.
    """

    tokens: tuple[int, ...]
    spans: tuple[tuple[Span, Span], ...]


def conversation_decisions(chat: ChatFormat, messages: Messages, blocks: bool) -> list[Decisions]:
    """Return the decisions of all replies of a conversation, in order.

    They are one sequence of tokens; but where the template changes earlier replies, one for each reply.

    Raises:
        ValueError: if the tokens of a reply cannot be located.
    """
    replies = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    located = [(*chat.locate_reply(messages[: place + 1]), messages[place]["content"]) for place in replies]
    if not located:
        return []
    whole, _, end, _ = located[-1]
    if all(whole.startswith(text[:each]) for text, _, each, _ in located):
        return [_decisions(chat, whole[:end], [(begin, each, reply) for _, begin, each, reply in located], blocks)]
    return [_decisions(chat, text[:each], [(begin, each, reply)], blocks) for text, begin, each, reply in located]


def reply_decision(chat: ChatFormat, messages: Messages, reply: str, blocks: bool) -> Decisions:
    """Return the decision of one reply after its messages, without the tokens after it."""
    text, begin, end = chat.locate_reply([*messages, {"role": "assistant", "content": reply}])
    found = _decisions(chat, text[:end], [(begin, end, reply)], blocks)
    return Decisions(found.tokens[: found.spans[0][1].last + 1], found.spans)


def _decisions(chat: ChatFormat, text: str, replies: Sequence[tuple[int, int, str]], blocks: bool) -> Decisions:
    encoded = chat.encode(text)
    spans = []
    for begin, end, reply in replies:
        chain = parse(reply) if blocks else None
        if isinstance(chain, Chain):
            state = begin + len(render_block("u", chain.state))
            action = state + 1 + len(render_block("a", chain.action))
            letters = ((begin, state - 1), (state + 1, action - 1))
        else:
            letters = ((begin - 1, begin - 1), (begin, end - 1))
        found = [[encoded.char_to_token(letter) for letter in span] for span in letters]
        if any(token is None for span in found for token in span):
            raise ValueError("the base's tokenizer drops characters of a reply, so its blocks cannot be located")
        spans.append((Span(*found[0]), Span(*found[1])))
    return Decisions(tuple(encoded["input_ids"]), tuple(spans))
