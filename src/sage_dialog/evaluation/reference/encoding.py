"""Tokens of a reply in a conversation as training has them, and which of them write the chain.

A conversation is rendered as a whole by the base's chat template, as in training, and the tokens of its last reply are
scored, end of turn included. A token that holds characters of the blocks and of what follows them counts to the reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from sage_dialog.inference.chat_format import ChatFormat, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedReply:
    """A conversation that ends with a reply, as tokens.

    Attributes:
        tokens: of the whole conversation, up to the end of turn.
        first: place of the reply's first token.
        after_chain: place of the first token after the chain; `first` without blocks.
        ends: the character at which each token from `first` on ends, counted from the start of the reply.
        starts: that at which it starts.
    """

    tokens: list[int]
    first: int
    after_chain: int
    starts: list[int]
    ends: list[int]

    def up_to(self, character: int) -> list[int]:
        """Return the tokens up to the one that holds the character before this place of the reply."""
        return self.tokens[: self.first + sum(start < character for start in self.starts)]


class ReplyEncoder:
    """Encodes one reply after a history, behind several chains.

    Args:
        tokenizer: from `load_tokenizer`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._chat = ChatFormat(tokenizer)

    def encode(self, history: Messages, blocks: Sequence[str], reply: str) -> list[EncodedReply]:
        """Return the conversation for each text of blocks before the reply; "" is a reply without blocks.

        Raises:
            ValueError: if the template refuses the messages, or the reply cannot be located in its text.
        """
        reply = self._chat.as_text(reply)  # as it is written
        content = blocks[0] + reply
        try:
            text, begin, end = self._chat.locate_reply([*history, {"role": "assistant", "content": content}])
        except TemplateError as error:
            raise ValueError(f"the base's chat template refuses it: {error}") from error
        written = content if content in text[begin:end] else content.strip()
        at = text.find(written, begin, end)
        if at < 0:
            raise ValueError("the base's chat template changes a reply, so that its tokens cannot be located")
        before, after = text[:at], text[at + len(written) :]
        contents = [each + reply if written == content else (each + reply).strip() for each in blocks]
        texts = [before + each + after for each in contents]
        encoded = self._tokenizer(texts, add_special_tokens=False, verbose=False)
        found = []
        for index, (each, chain) in enumerate(zip(contents, blocks, strict=True)):
            first = encoded.char_to_token(index, begin)
            last = encoded.char_to_token(index, end - 1 + len(each) - len(written))
            if first is None or last is None:
                raise ValueError("the base's tokenizer drops characters of a reply, so its tokens cannot be located")
            spans = encoded.encodings[index].offsets[first : last + 1]
            chain_end = at + len(chain.rstrip())
            of_chain = sum(end_of_token <= chain_end for _, end_of_token in spans) if chain else 0
            found.append(
                EncodedReply(
                    tokens=list(encoded["input_ids"][index][: last + 1]),
                    first=first,
                    after_chain=first + of_chain,
                    starts=[start - at for start, _ in spans],
                    ends=[stop - at for _, stop in spans],
                )
            )
        return found
