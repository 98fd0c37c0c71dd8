"""The bytes of a tokenizer's tokens, and the tokens that may stand inside a label."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sage_dialog.inference.chat_format import ChatFormat
from sage_dialog.sac.grammar import first_reserved, is_label_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class LabelTokens(NamedTuple):
    """The tokens that begin with some text, by their rest, in which a label begins or goes on.

    Attributes:
        tokens: their numbers, ascending; the other arrays are over these.
        inside: whether the rest is not empty and may be inside a label.
        begins_with_space, ends_with_space: of the rest.
        is_text: whether its bytes are UTF-8, of which the last letter may be incomplete.
        continues_letter: whether its first byte belongs to a letter that an earlier token begins.
        length: number of characters, an incomplete one included.
        reserved: the tokens with a character that no label holds, by the first such character.
    """

    tokens: np.ndarray
    inside: np.ndarray
    begins_with_space: np.ndarray
    ends_with_space: np.ndarray
    is_text: np.ndarray
    continues_letter: np.ndarray
    length: np.ndarray
    reserved: dict[str, list[int]]


class Vocabulary:
    """The bytes of each token of a tokenizer. Special tokens have none: they do not occur in replies.

    Raises:
        ValueError: if the text of a token depends on its neighbours, as with WordPiece.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {*tokenizer.all_special_ids, *(token for token, entry in added.items() if entry.special)}
        piece_bytes = _piece_decoder(tokenizer)
        pieces = tokenizer.convert_ids_to_tokens(list(range(max(tokenizer.get_vocab().values()) + 1)))
        # An ASCII letter has a piece of its own. As a byte beside other bytes it may decode to a replacement character.
        letters = {piece.replace("▁", " ") for piece in pieces if piece}
        textless = {None, *(f"<0x{byte:02X}>" for byte in range(128) if chr(byte) in letters)}
        self.tokens = [
            b"" if token in special or piece in textless else piece.encode() if token in added else piece_bytes(piece)
            for token, piece in enumerate(pieces)
        ]
        spaced = next((token for token, written in enumerate(self.tokens) if written[:1] == b" " != written), None)
        self.strips_first_space = spaced is not None and not tokenizer.decode([spaced]).startswith(" ")
        self._label_tokens: dict[bytes, LabelTokens] = {}

    def encode(self, text: str) -> list[tuple[int, int, int]]:
        """Return the tokens of a reply as in training, each with the byte offsets of its start and end in the text.

        Raises:
            ValueError: if the tokens do not decode to the text.
        """
        # Those after the prompt where a whole dialogue is tokenized at once.
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]
        chat = ChatFormat(self._tokenizer)
        dialogue, prompt = chat.tokens(messages), chat.tokens(messages[:1], reply_follows=True)
        if dialogue[: len(prompt)] == prompt:
            tokens = dialogue[len(prompt) :]
        else:
            tokens = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        spans: list[tuple[int, int, int]] = []
        written = b""
        for token in tokens:
            if len(written) >= len(text.encode()):
                break  # the chat template's own text after the reply
            begin, written = len(written), written + self.token_bytes(token, first=not spans)
            spans.append((token, begin, len(written)))
        if not written.startswith(text.encode()):
            raise ValueError(f"the policy's tokenizer makes {written.decode(errors='replace')!r} of {text!r}")
        return spans

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        """Return the bytes of a token, `first` for the first token of a reply."""
        written = self.tokens[token] if token < len(self.tokens) else b""
        return written.removeprefix(b" ") if first and self.strips_first_space else written

    def prefix_tokens(self, text: bytes) -> Iterator[int]:
        """Yield the tokens that are a prefix of the text, or the whole text."""
        order, written = self._sorted
        for length in range(1, len(text) + 1):
            for place in range(bisect_left(written, text[:length]), len(order)):
                if written[place] != text[:length]:
                    break
                yield order[place]

    def overlap(self, text: bytes) -> int:
        """Return the first offset at which a token may begin that goes beyond the end of the text."""
        _, written = self._sorted
        for begin in range(len(text)):
            place = bisect_right(written, text[begin:])
            if place < len(written) and written[place].startswith(text[begin:]):
                return begin
        return len(text)

    @cached_property
    def _sorted(self) -> tuple[list[int], list[bytes]]:
        order = sorted(range(len(self.tokens)), key=self.tokens.__getitem__)
        return order, [self.tokens[token] for token in order]

    def label_tokens(self, before: bytes) -> LabelTokens:
        """Return the tokens that begin with the bytes `before` and go beyond them."""
        if before not in self._label_tokens:
            order, written = self._sorted
            first = bisect_right(written, before)
            longer = takewhile(lambda place: written[place].startswith(before), range(first, len(order)))
            tokens = sorted(order[place] for place in longer)
            rests = [self.tokens[token][len(before) :] for token in tokens]
            texts = [rest.decode(errors="replace") for rest in rests]
            inside = np.array([is_label_text(text) for text in texts], dtype=bool)
            reserved: dict[str, list[int]] = defaultdict(list)
            for token, text, is_inside in zip(tokens, texts, inside, strict=True):
                if not is_inside:
                    reserved[first_reserved(text)].append(token)
            self._label_tokens[before] = LabelTokens(
                tokens=np.array(tokens, dtype=np.int64),
                inside=inside,
                begins_with_space=np.array([text[0].isspace() for text in texts], dtype=bool),
                ends_with_space=np.array([text[-1].isspace() for text in texts], dtype=bool),
                is_text=np.array([is_utf8_prefix(rest) for rest in rests], dtype=bool),
                continues_letter=np.array([0x80 <= rest[0] < 0xC0 for rest in rests], dtype=bool),
                length=np.array([len(text) for text in texts], dtype=np.int64),
                reserved=dict(reserved),
            )
        return self._label_tokens[before]


def _piece_decoder(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], bytes]:
    """Return the function from a vocabulary piece to its bytes."""
    decoder = str(tokenizer.backend_tokenizer.decoder)
    if "ByteLevel" in decoder:
        byte = {letter: byte for byte, letter in bytes_to_unicode().items()}
        return lambda piece: bytes(byte[letter] for letter in piece)
    if "▁" in decoder:
        return lambda piece: (
            bytes.fromhex(found[1])
            if (found := re.fullmatch("<0x([0-9A-F]{2})>", piece))
            else piece.replace("▁", " ").encode()
        )
    raise ValueError("the policy cannot be steered: its tokenizer is neither byte-level nor SentencePiece")


def is_utf8_prefix(written: bytes) -> bool:
    """Return whether the bytes are the beginning of a text in UTF-8."""
    try:
        written.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True
