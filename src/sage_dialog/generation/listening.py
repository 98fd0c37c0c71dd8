"""Reading along while a server streams a reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_dialog.generation.transcript import Transcript, text_of
from sage_dialog.llm.completions import Continuation
from sage_dialog.llm.requests import NoReplyError, Reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Listener:
    """Passes on what a streamed answer has of its first sample.

    Where the stream breaks off and the request is sent again, it goes on where it stood.

    Args:
        before: tokens of the reply that were there before this answer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, heard: Callable[[str], None], before: Sequence[int] = ()
    ) -> None:
        self._tokenizer, self._heard = tokenizer, heard
        self._tokens: list[int] = []
        self._text = ""
        self._hidden = len(text_of(tokenizer, list(before)))  # letters that were there before
        self._transcript = Transcript(tokenizer, self._say)
        for token in before:
            self._transcript.add(token)

    def read(self, answer: Mapping[str, Any]) -> None:
        """Takes what has come of the answer.

        Raises:
            NoReplyError: if that is not how the reply began that was heard so far.
        """
        for choice in answer["choices"]:
            if choice["index"] == 0:
                self._take(choice.get("text", ""), choice.get("token_ids"))

    def end(self, written: Continuation) -> None:
        """The reply is whole; where the journal had it, nothing of it was heard yet."""
        self._take(written.text, written.token_ids)
        if written.token_ids is not None:
            self._transcript.end()

    def _take(self, text: str, tokens: Sequence[int] | None) -> None:
        if tokens is not None:
            known = min(len(tokens), len(self._tokens))
            _same(list(tokens[:known]) == self._tokens[:known])
            for token in tokens[known:]:
                self._tokens.append(token)
                if token != self._tokenizer.eos_token_id:
                    self._transcript.add(token)
            return
        text = plain_text(self._tokenizer, text)
        known = min(len(text), len(self._text))
        _same(text[:known] == self._text[:known])
        if piece := text[known:]:
            self._text = text
            self._heard(piece)

    def _say(self, piece: str) -> None:
        hidden = min(self._hidden, len(piece))
        self._hidden -= hidden
        if piece[hidden:]:
            self._heard(piece[hidden:])


def plain_text(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """A server's text without special tokens, which some leave in it."""
    special = "|".join(re.escape(token) for token in sorted(tokenizer.all_special_tokens, key=len, reverse=True))
    return re.sub(special, "", text) if special else text


def _same(same: bool) -> None:
    if not same:
        raise NoReplyError(Reason.BROKEN, "asked again, it began another reply than the one that was heard so far")
