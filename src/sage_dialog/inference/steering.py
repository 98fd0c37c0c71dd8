"""Steering (paper §3.7) for one tokenizer: what each token makes of the chain that is being written.

Nothing here knows a model or torch. A `Guide` says of a place in a reply which tokens get a weight and which
may come at all, and where the reply stands after the token drawn; any engine that sees the logits can apply it.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sage_dialog.config import Steering
from sage_dialog.inference.chat_format import ChatFormat
from sage_dialog.sac.grammar import FIELDS, BlockGrammar, ParserState, is_label_text, is_list_field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILLER = "x"
"""Stands in for what is free."""

_HERE = "\0"  # in no label
_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


class Vocabulary:
    """What each token of a tokenizer writes, in bytes; special tokens write nothing, as they stand in no reply.

    Raises:
        ValueError: if what a token writes depends on its neighbours, as with WordPiece.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {*tokenizer.all_special_ids, *(token for token, entry in added.items() if entry.special)}
        read = _bytes_of(tokenizer)
        pieces = tokenizer.convert_ids_to_tokens(list(range(max(tokenizer.get_vocab().values()) + 1)))
        self.tokens = [
            b"" if token in special or piece is None else piece.encode() if token in added else read(piece)
            for token, piece in enumerate(pieces)
        ]
        spaced = next((token for token, written in enumerate(self.tokens) if written[:1] == b" " != written), None)
        self.strips_first_space = spaced is not None and not tokenizer.decode([spaced]).startswith(" ")

    def encode(self, text: str) -> list[tuple[int, int, int]]:
        """The tokens of a reply as training has shown it, each with the bytes of the text where it begins and ends.

        Raises:
            ValueError: if they do not write the text.
        """
        spans: list[tuple[int, int, int]] = []
        written = b""
        for token in self._reply(text):
            if len(written) >= len(text.encode()):
                break  # what the chat template puts behind
            begin, written = len(written), written + self.written(token, first=not spans)
            spans.append((token, begin, len(written)))
        if not written.startswith(text.encode()):
            raise ValueError(f"the policy's tokenizer makes {written.decode(errors='replace')!r} of {text!r}")
        return spans

    def _reply(self, text: str) -> list[int]:
        """What stands behind the prompt where a whole dialogue is tokenised at once."""
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]
        chat = ChatFormat(self._tokenizer)
        whole, before = chat.tokens(messages), chat.tokens(messages[:1], reply_follows=True)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def written(self, token: int, first: bool = False) -> bytes:
        """What a token writes, at the beginning of a reply or later."""
        written = self.tokens[token] if token < len(self.tokens) else b""
        return written.removeprefix(b" ") if first and self.strips_first_space else written

    def beginnings(self, text: bytes) -> Iterator[int]:
        """The tokens that write a part of this from its beginning, all of it, or it and more."""
        order, written = self._sorted
        for length in range(1, len(text) + 1):
            for place in range(bisect_left(written, text[:length]), len(order)):
                if not (written[place] == text[:length] or (length == len(text) and written[place].startswith(text))):
                    break
                yield order[place]

    def overlap(self, text: bytes) -> int:
        """Where in a text the first token may begin that writes the rest of it and more."""
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

    @cached_property
    def of_labels(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Which tokens stand inside a label, which of these begin with a space; and the others that write."""
        texts = [written.decode(errors="replace") for written in self.tokens]
        inside = np.array([is_label_text(text) for text in texts])
        spaced = inside & np.array([text[:1].isspace() for text in texts])
        return inside, spaced, [token for token, text in enumerate(texts) if text and not inside[token]]


def _bytes_of(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], bytes]:
    """How the pieces of a vocabulary are read."""
    decoder = str(tokenizer.backend_tokenizer.decoder)
    if "ByteLevel" in decoder:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte = {letter: byte for byte, letter in bytes_to_unicode().items()}
        return lambda piece: bytes(byte[letter] for letter in piece)
    if "▁" in decoder:
        return lambda piece: (
            bytes([int(found[1], 16)]) if (found := _BYTE_PIECE.fullmatch(piece)) else piece.replace("▁", " ").encode()
        )
    raise ValueError("the policy cannot be steered: its tokenizer is neither a byte-level nor a SentencePiece one")


@dataclass(eq=False)
class GuideState:
    """Where a reply stands, and what steering makes of its next token.

    `tokens` get `weights` (log-odds). `barred`, to be added to the logits, is minus infinity for tokens that may
    not come and zero for the others; None where all may.
    """

    progress: ParserState
    pending: bytes
    tokens: list[int]
    weights: list[float]
    barred: np.ndarray | None
    after: dict[int, GuideState | None] = field(default_factory=dict)

    @cached_property
    def only(self) -> int | None:
        """The token that comes in any case, where there is one."""
        if self.barred is None:
            return None
        allowed = np.flatnonzero(self.barred == 0)
        return int(allowed[0]) if len(allowed) == 1 else None


class Guide:
    """A steering, worked out for one tokenizer.

    Boosts follow the tokens by which the tokenizer writes a keyword where it stands, and only these: a token
    that merely begins with the same letters gets no weight.

    Given values are written by the tokenizer's own tokens as well, and so is the form between values. Where a
    token may reach from there into what is free, the model draws from all tokens that agree with what is given;
    in a free value, from all that keep the form. Without given values the form is the model's own affair.

    Raises:
        ValueError: if the tokenizer cannot write a keyword or a given value.
    """

    def __init__(self, vocabulary: Vocabulary, steering: Steering, end: int, size: int) -> None:
        """`end` is the token that ends a reply, `size` how many logits the model gives (at times more than tokens)."""
        self._vocabulary, self.end, self._size = vocabulary, end, size
        self._boosts: dict[str, dict[str, float]] = dict(steering.boosts.items())
        self._holds = bool(steering.fixed)
        self._form = BlockGrammar.with_values(dict(steering.fixed.items()))
        self._keyword_tokens = self._tokens_of_keywords()
        self._form_tokens = self._tokens_of_form() if self._holds else {}
        self._places: dict[tuple[ParserState, bytes], GuideState] = {}
        self._barred: dict[tuple[ParserState, bytes], np.ndarray] = {}
        self.start = self._place(self._form.initial_state(), b"")
        self.markers = {
            field: self._marker(field) for field in FIELDS if field in steering.fixed or self._weighs(field)
        }
        """By steered field, in their order, a text that stands before what is steered, for engines that stop there."""

    def after(self, place: GuideState, token: int) -> GuideState | None:
        """Where a reply stands after a token; None where nothing is left to steer."""
        if token not in place.after:
            step = None if token == self.end else self._step(place.progress, place.pending, token)
            place.after[token] = None if step is None or step[0].in_utterance else self._place(*step)
        return place.after[token]

    def _step(self, progress: ParserState, pending: bytes, token: int) -> tuple[ParserState, bytes] | None:
        """ParserState and the bytes of a letter that is not whole yet; None where the message cannot parse any more."""
        written = pending + self._vocabulary.written(token, first=progress == self._form.initial_state())
        text, taken = codecs.utf_8_decode(written, "replace", False)
        progress_after = progress.advance(text)
        return None if progress_after is None else (progress_after, written[taken:])

    def _place(self, progress: ParserState, pending: bytes) -> GuideState:
        progress = progress.canonical(self._boosts.get(progress.field or "", ()))  # so that places are few
        key = progress, pending
        if key not in self._places:
            boosts = self._boosted(progress, pending)
            barred = self._barred_at(progress, pending) if self._holds else None
            self._places[key] = GuideState(progress, pending, list(boosts), list(boosts.values()), barred)
        return self._places[key]

    def _boosted(self, progress: ParserState, pending: bytes) -> dict[int, float]:
        """The weight of each token that begins or goes on with a keyword; the largest where it does so for several."""
        boosts: dict[int, float] = {}
        for name, before, label in progress.label_positions():
            there = {*progress.topics, *([progress.label] if before else [])} if name == progress.field else set()
            for token, keyword, weight in self._keyword_tokens.get(
                (name, before.encode(), label.encode() + pending), ()
            ):
                if keyword not in there:
                    boosts[token] = max(weight, boosts.get(token, weight))
        return boosts

    def _barred_at(self, progress: ParserState, pending: bytes) -> np.ndarray:
        token = self._form_tokens.get((progress, pending))
        key = (progress if token is not None else progress.canonical(), pending)
        if key not in self._barred:
            allowed = np.zeros(self._size, dtype=bool)
            allowed[self._agreeing(*key) if token is None else token] = True
            self._barred[key] = np.where(allowed, np.float32(0), np.float32(-np.inf))
        return self._barred[key]

    def _agreeing(self, progress: ParserState, pending: bytes) -> list[int]:
        """The tokens after which the message may still parse with the given values in it.

        Raises:
            ValueError: if there is none.
        """
        due = progress.required.encode()[len(pending) :]
        certain: list[int] = []
        if due:
            doubtful = list(self._vocabulary.beginnings(due))
        else:
            inside, spaced, doubtful = self._vocabulary.of_labels
            certain = np.flatnonzero(inside if progress.label or pending else inside & ~spaced).tolist()
        certain += [token for token in doubtful if self._step(progress, pending, token) is not None]
        certain += [self.end] * progress.may_end
        if not certain:
            raise ValueError(f"the policy's tokenizer has no token that goes on with {progress.required!r}")
        return certain

    def _tokens_of_form(self) -> dict[tuple[ParserState, bytes], int]:
        """Where a token of the form or of a given value is certain, that token.

        It is not where a token of the vocabulary may reach from it into what is free and comes next.
        """
        certain: dict[tuple[ParserState, bytes], int] = {}
        progress, pending = self._form.initial_state(), b""
        for token, begin, end in self._vocabulary.encode(
            self._form.render(dict.fromkeys(self._form.fields, FILLER), FILLER)
        ):
            due = progress.required.encode()[len(pending) :]
            if due and not progress.may_end and end - begin <= self._vocabulary.overlap(due):
                certain[progress, pending] = token
            step = self._step(progress, pending, token)
            if step is None or step[0].in_utterance:
                break
            progress, pending = step
        return certain

    def _weighs(self, field: str) -> bool:
        return any(self._boosts.get(field, {}).values())

    def _marker(self, field: str) -> str:
        """The field's name, and what stands behind it as far as no token of a keyword takes it along."""
        literal = BlockGrammar.with_values({}).literals[FIELDS.index(field)]
        opening = literal[literal.index(field) :]
        taken = [
            len(before)
            for name, before, _ in self._keyword_tokens
            if name == field and opening.encode().endswith(before)
        ]
        return opening[: max(len(opening) - max(taken), len(field))] if taken else f"{field}:"

    def _tokens_of_keywords(self) -> dict[tuple[str, bytes, bytes], list[tuple[int, str, float]]]:
        """By (field, what must be written before the label, what stands of it): tokens, with keyword and weight."""
        found: dict[tuple[str, bytes, bytes], list[tuple[int, str, float]]] = defaultdict(list)
        for name, weights in self._boosts.items():
            places = (_HERE, f"{_HERE}, {FILLER}", f"{FILLER}, {_HERE}") if is_list_field(name) else (_HERE,)
            values = dict.fromkeys(self._form.fields, FILLER)
            for keyword, weight in weights.items():
                for place in places:
                    before, after = (
                        part.encode() for part in self._form.render(values | {name: place}, FILLER).split(_HERE)
                    )
                    text = before + keyword.encode() + after
                    start, stop = len(before), len(before + keyword.encode())
                    for token, begin, end in self._vocabulary.encode(text.decode()):
                        if begin < stop and end > start:
                            key = name, text[begin:start], text[start:begin]
                            found[key].append((token, keyword, weight))
        return found
