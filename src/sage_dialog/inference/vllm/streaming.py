"""Text of a reply while a server streams it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sage_dialog.inference.engine import OnText
from sage_dialog.inference.transformers.detokenizer import IncrementalDetokenizer, decode_tokens
from sage_dialog.llm.completions import Continuation
from sage_dialog.llm.requests import FailureReason, RequestFailedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_Part = TypeVar("_Part", str, list[int])


class StreamedReply:
    """Emits the text of the first sample of a streamed response in pieces.

    Where the stream breaks off and the request is repeated, it continues where it was.

    Args:
        before: tokens of the reply before this response.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, on_text: OnText, before: Sequence[int] = ()) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text
        self._tokens: list[int] = []
        self._text = ""
        self._hidden = len(decode_tokens(tokenizer, list(before)))  # letters of earlier responses
        self._detokenizer = IncrementalDetokenizer(tokenizer, self._emit)
        for token in before:
            self._detokenizer.add(token)

    def update(self, response: Mapping[str, Any]) -> None:
        """Emit the new text of the response so far.

        Raises:
            RequestFailedError: if a repeated request began another reply.
        """
        for choice in response["choices"]:
            if choice["index"] == 0:
                self._read(choice.get("text", ""), choice.get("token_ids"))

    def end(self, reply: Continuation) -> None:
        """Emit the rest of the complete reply, which is all of it where the response cache had it."""
        self._read(reply.text, reply.token_ids, complete=True)
        if reply.token_ids is not None:
            self._detokenizer.end()

    def _read(self, text: str, tokens: Sequence[int] | None, complete: bool = False) -> None:
        if tokens is not None:
            for token in _new_part(list(tokens), self._tokens):
                self._tokens.append(token)
                if token != self._tokenizer.eos_token_id:
                    self._detokenizer.add(token)
            return
        text = plain_text(self._tokenizer, text, complete)
        if piece := _new_part(text, self._text):
            self._text = text
            self._on_text(piece)

    def _emit(self, piece: str) -> None:
        hidden = min(self._hidden, len(piece))
        self._hidden -= hidden
        if piece[hidden:]:
            self._on_text(piece[hidden:])


def plain_text(tokenizer: PreTrainedTokenizerFast, text: str, complete: bool = True) -> str:
    """Return the text of a reply as `decode_tokens` would, for servers that return no token ids.

    Special tokens are removed, which some servers leave in. So is the first token's leading space where the tokenizer's
    own decoding drops it (SentencePiece).

    Args:
        complete: false holds back an end that may begin a special token.
    """
    special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    prefixes = {token[:length] for token in special for length in range(1, len(token))}
    held_back = [] if complete else [rf"(?:{'|'.join(map(re.escape, prefixes))})\Z"]
    text = re.sub("|".join([*held_back, *map(re.escape, special)]), "", text)
    return text[1:] if text.startswith(" ") and _strips_first_space(tokenizer) else text


def _strips_first_space(tokenizer: PreTrainedTokenizerFast) -> bool:
    tokens = tokenizer(" x", add_special_tokens=False)["input_ids"]
    alone = decode_tokens(tokenizer, tokens)
    return decode_tokens(tokenizer, tokens + tokens) == f"{alone} {alone}"


def _new_part(response: _Part, emitted: _Part) -> _Part:
    known = min(len(response), len(emitted))
    if response[:known] != emitted[:known]:
        raise RequestFailedError(FailureReason.BROKEN, "the repeated request began another reply than the streamed one")
    return response[known:]
