"""Text of a reply from its tokens, at once or incrementally."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sage_dialog.inference.engine import OnText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class IncrementalDetokenizer:
    """Emits the text of a reply in pieces while its tokens arrive; the pieces concatenate to the whole text.

    transformers' `TextStreamer` splits at spaces and prints; this gives every letter as soon as it is final. All tokens
    so far are decoded each time, because the text of a token may depend on those before it. Two things wait for the
    next token, which may change them: a letter with incomplete bytes, and a run of SentencePiece's byte tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, on_text: OnText) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(token for token, entry in added if entry.special)}
        self._tokens: list[int] = []
        self._emitted = 0  # letters

    def add(self, token: int) -> None:
        """Add a token of the reply."""
        self._tokens.append(token)
        piece = self._tokenizer.convert_ids_to_tokens(token)  # None for padded embeddings beyond the vocabulary
        if token not in self._special and piece is not None and not _BYTE_PIECE.fullmatch(piece):
            self._emit(decode_tokens(self._tokenizer, self._tokens).rstrip(_INCOMPLETE))

    def end(self) -> None:
        """Emit what was held back, at the end of the reply."""
        self._emit(decode_tokens(self._tokenizer, self._tokens))

    def _emit(self, text: str) -> None:
        piece, self._emitted = text[self._emitted :], max(self._emitted, len(text))
        if piece:
            self._on_text(piece)


def decode_tokens(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    """Return the text of a reply's tokens, without special tokens."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
