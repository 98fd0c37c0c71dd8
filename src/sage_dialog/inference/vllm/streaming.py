"""Reading along while a server streams a reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.inference.transformers.detokenizer import IncrementalDetokenizer, decode_tokens
from sage_dialog.llm.completions import Continuation
from sage_dialog.llm.requests import FailureReason, RequestFailedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Listener:
    """Passes on what a streamed answer has of its first sample.

    Where the stream breaks off and the request is sent again, it goes on where it stood.

    Args:
        before: tokens of the reply that were there before this answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, on_text: Callable[[str], None], before: Sequence[int] = ()
    ) -> None:
        self._tokenizer, self._on_text = tokenizer, on_text
        self._tokens: list[int] = []
        self._text = ""
        self._hidden = len(decode_tokens(tokenizer, list(before)))  # letters that were there before
        self._transcript = IncrementalDetokenizer(tokenizer, self._say)
        for token in before:
            self._transcript.add(token)

    def read(self, answer: Mapping[str, Any]) -> None:
        """Takes what has come of the answer.

        Raises:
            RequestFailedError: if that is not how the reply began that was on_text so far.
        """
        for choice in answer["choices"]:
            if choice["index"] == 0:
                self._take(choice.get("text", ""), choice.get("token_ids"))

    def end(self, written: Continuation) -> None:
        """The reply is whole; where the response cache had it, nothing of it was on_text yet."""
        self._take(written.text, written.token_ids, whole=True)
        if written.token_ids is not None:
            self._transcript.end()

    def _take(self, text: str, tokens: Sequence[int] | None, whole: bool = False) -> None:
        if tokens is not None:
            known = min(len(tokens), len(self._tokens))
            _same(list(tokens[:known]) == self._tokens[:known])
            for token in tokens[known:]:
                self._tokens.append(token)
                if token != self._tokenizer.eos_token_id:
                    self._transcript.add(token)
            return
        text = plain_text(self._tokenizer, text, whole)
        known = min(len(text), len(self._text))
        _same(text[:known] == self._text[:known])
        if piece := text[known:]:
            self._text = text
            self._on_text(piece)

    def _say(self, piece: str) -> None:
        hidden = min(self._hidden, len(piece))
        self._hidden -= hidden
        if piece[hidden:]:
            self._on_text(piece[hidden:])


def plain_text(tokenizer: PreTrainedTokenizerFast, text: str, whole: bool = True) -> str:
    """What `decode_tokens` makes of a reply of which a server tells the text alone.

    Special tokens, which some servers leave in it, are taken out. So is the space that the first token brings along
    behind a prompt, where the tokenizer's own decoding drops it (SentencePiece).

    Args:
        whole: else more may come, and an end that may begin a special token is held back.
    """
    special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    begun = {token[:length] for token in special for length in range(1, len(token))}
    unheard = [] if whole else [rf"(?:{'|'.join(map(re.escape, begun))})\Z"]
    text = re.sub("|".join([*unheard, *map(re.escape, special)]), "", text)
    return text[1:] if text.startswith(" ") and _strips_first_space(tokenizer) else text


def _strips_first_space(tokenizer: PreTrainedTokenizerFast) -> bool:
    tokens = tokenizer(" x", add_special_tokens=False)["input_ids"]
    alone = decode_tokens(tokenizer, tokens)
    return decode_tokens(tokenizer, tokens + tokens) == f"{alone} {alone}"


def _same(same: bool) -> None:
    if not same:
        raise RequestFailedError(FailureReason.BROKEN, "asked again, it began another reply than the one that was on_text so far")
