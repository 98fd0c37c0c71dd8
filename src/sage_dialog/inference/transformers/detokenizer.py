"""The text of a reply while its tokens come, for whoever wants to read along."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
_BROKEN = "\N{REPLACEMENT CHARACTER}"


class IncrementalDetokenizer:
    """Passes on what the tokens of a reply write, in pieces that together are the text of the whole reply.

    Each time all tokens so far are decoded, since what a token writes may depend on those before it. Two things
    wait for the next token, because it may change them: a letter whose bytes are not whole yet, and a run of
    SentencePiece's byte tokens, which is read at once.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, on_text: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(token for token, entry in added if entry.special)}
        self._tokens: list[int] = []
        self._said = 0  # letters passed on

    def add(self, token: int) -> None:
        """Another token of the reply. An exception from whoever listens goes through."""
        self._tokens.append(token)
        piece = self._tokenizer.convert_ids_to_tokens(token)  # None beyond the last, where embeddings are padded
        if token not in self._special and piece is not None and not _BYTE_PIECE.fullmatch(piece):
            self._say(decode_tokens(self._tokenizer, self._tokens).rstrip(_BROKEN))

    def end(self) -> None:
        """The reply is whole: what was held back is passed on."""
        self._say(decode_tokens(self._tokenizer, self._tokens))

    def _say(self, text: str) -> None:
        piece, self._said = text[self._said :], max(self._said, len(text))
        if piece:
            self._on_text(piece)


def decode_tokens(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    """What the tokens of a reply write, special ones left out."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
