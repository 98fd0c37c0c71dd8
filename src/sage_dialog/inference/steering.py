"""Steering (paper §3.7) for one tokenizer, as a token automaton: a guide with states and transitions.

A `Guide` gives, for each state of a reply, the tokens with a boost and the tokens that are allowed, and the state after
a token. Any engine with access to the logits can apply it; nothing here depends on a model or torch.
"""

from __future__ import annotations

import codecs
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from sage_dialog.config import BoostScale, Steering
from sage_dialog.inference.vocabulary import Vocabulary, is_utf8_prefix
from sage_dialog.sac.grammar import (
    FIELDS,
    BlockGrammar,
    ParserState,
    ValueLimits,
    is_list_field,
)

FILLER = "x"
"""Stands for free text in a rendered message."""

_KEYWORD_PLACE = "\0"  # in no label


@dataclass(eq=False)
class GuideState:
    """A state of a reply, and the steering of its next token.

    Attributes:
        parser: the position in the blocks.
        pending: the first bytes of an incomplete letter.
        tokens: tokens with a boost.
        weights: their boosts, on the scale `boost_scale`.
        mask: to be added to the logits, minus infinity for forbidden tokens and zero for the others; None allows all.
        transitions: the known states after a token.
    """

    parser: ParserState
    pending: bytes
    tokens: list[int]
    weights: list[float]
    mask: np.ndarray | None
    boost_scale: BoostScale = "log_odds"
    transitions: dict[int, GuideState | None] = field(default_factory=dict)

    def boost_factor(self, temperature: float) -> float:
        """Return what boosts are multiplied by before they are added to logits that the temperature then divides."""
        return temperature if self.boost_scale == "log_odds" else 1.0

    @cached_property
    def forced_token(self) -> int | None:
        """The only allowed token, where there is one."""
        if self.mask is None:
            return None
        allowed = np.flatnonzero(self.mask == 0)
        return int(allowed[0]) if len(allowed) == 1 else None


class Guide:
    """The token automaton of a steering for one tokenizer.

    Boosts apply to the tokens by which the tokenizer writes a keyword in its place. A token that merely shares first
    letters with a keyword gets none.

    Fixed values, and the text between values, are written by the tokenizer's own tokens. Where a token may extend from
    there into free text, the model draws from all tokens that agree with the fixed text; in a free value, from all that
    keep the grammar. Without fixed values and without limits nothing constrains the grammar.

    Args:
        end: the token that ends a reply.
        size: number of logits of the model, which may exceed the number of tokens.
        limits: holds the form of the blocks, with free values within these limits.

    Raises:
        ValueError: if the tokenizer cannot write a keyword or a fixed value, or a keyword is beyond the limits.
    """

    def __init__(
        self, vocabulary: Vocabulary, steering: Steering, end: int, size: int, limits: ValueLimits | None = None
    ) -> None:
        self._vocabulary, self.end, self._size = vocabulary, end, size
        self._boosts: dict[str, dict[str, float]] = dict(steering.boosts.items())
        self._boost_scale = steering.boost_scale
        self._limited = limits is not None
        self._constrained = bool(steering.fixed) or self._limited
        self._grammar = BlockGrammar.with_values(dict(steering.fixed.items()), limits or ValueLimits())
        self._check_lengths(self._grammar.limits.label_length)
        self._keyword_tokens = self._find_keyword_tokens()
        self._forced_tokens = self._find_forced_tokens() if self._constrained else {}
        self._states: dict[tuple[ParserState, bytes], GuideState] = {}
        self._masks: dict[tuple[ParserState, bytes], np.ndarray] = {}
        self.initial_state = self._state(self._grammar.initial_state(), b"")
        self.markers = {
            field: self._marker(field)
            for field in FIELDS
            if field in steering.fixed or any(self._boosts.get(field, {}).values())
        }
        """For each steered field, in order, a text before the steered part. Engines may use it as a stop string."""

    def next_state(self, state: GuideState, token: int) -> GuideState | None:
        """Return the state after a token; None where nothing remains to steer."""
        if token not in state.transitions:
            step = None if token == self.end else self._step(state.parser, state.pending, token)
            state.transitions[token] = None if step is None or step[0].in_utterance else self._state(*step)
        return state.transitions[token]

    def _step(self, parser: ParserState, pending: bytes, token: int) -> tuple[ParserState, bytes] | None:
        """Return the parser state and pending bytes after a token; None where the message can no longer parse."""
        first = parser == self._grammar.initial_state()
        written = pending + self._vocabulary.token_bytes(token, first=first)
        text, length = codecs.utf_8_decode(written, "replace", False)
        advanced, pending = parser.advance(text), written[length:]
        if self._limited and not is_utf8_prefix(written):
            return None
        if advanced is None or (advanced.required and not advanced.required.encode().startswith(pending)):
            return None  # the pending bytes are of a letter that is not the required one
        if pending and advanced.label_room < 1:
            return None  # the letter would make the label too long
        return advanced, pending

    def _state(self, parser: ParserState, pending: bytes) -> GuideState:
        parser = parser.canonical(self._boosts.get(parser.field or "", ()))  # keeps the number of states small
        key = parser, pending
        if key not in self._states:
            boosts = self._boosts_at(parser, pending)
            mask = self._mask_at(parser, pending) if self._constrained else None
            weights = list(boosts.values())
            self._states[key] = GuideState(parser, pending, list(boosts), weights, mask, self._boost_scale)
        return self._states[key]

    def _boosts_at(self, parser: ParserState, pending: bytes) -> dict[int, float]:
        """Return the weight of each token that begins or continues a keyword, the largest of several."""
        boosts: dict[int, float] = {}
        for name, before, label in parser.label_positions():
            listed = {*parser.topics, *([parser.label] if before else [])} if name == parser.field else set()
            key = name, before.encode(), label.encode() + pending
            for token, keyword, weight in self._keyword_tokens.get(key, ()):
                if keyword not in listed:
                    boosts[token] = max(weight, boosts.get(token, weight))
        return boosts

    def _mask_at(self, parser: ParserState, pending: bytes) -> np.ndarray:
        forced = self._forced_tokens.get((parser, pending))
        key = (parser if forced is not None else parser.canonical(), pending)
        if key not in self._masks:
            allowed = np.zeros(self._size, dtype=bool)
            allowed[self._allowed_tokens(*key) if forced is None else forced] = True
            self._masks[key] = np.where(allowed, np.float32(0), np.float32(-np.inf))
        return self._masks[key]

    def _allowed_tokens(self, parser: ParserState, pending: bytes) -> list[int]:
        """Return the tokens after which the message may still parse with the fixed values.

        Raises:
            ValueError: if there is none.
        """
        required = parser.required.encode()[len(pending) :]
        tokens = self._vocabulary.label_tokens(required)
        unchecked: list[int] = []
        if required:
            unchecked, pending_after = list(self._vocabulary.prefix_tokens(required)), b""
            after = parser.advance(parser.required)
            assert after is not None, "the required text is that of the grammar"
        else:
            after, pending_after = parser, pending
        free = tokens.is_text if self._limited else np.ones(len(tokens.tokens), dtype=bool)
        if not after.in_utterance:
            room = after.label_room - bool(pending_after)
            free = free & tokens.inside
            free &= (tokens.length < room) | ((tokens.length == room) & ~tokens.ends_with_space)
            unchecked += [token for letter in after.closing_letters for token in tokens.reserved.get(letter, ())]
            if pending_after:  # with the bytes before it a token may be other text than by itself
                unchecked += tokens.tokens[tokens.inside & tokens.continues_letter].tolist()
                free &= ~tokens.continues_letter & (not self._limited)
            elif not after.label:
                free &= ~tokens.begins_with_space
        allowed: list[int] = tokens.tokens[free].tolist()
        allowed += [token for token in unchecked if self._step(parser, pending, token) is not None]
        allowed += [self.end] * parser.may_end
        if not allowed:
            raise ValueError(f"the policy's tokenizer has no token that continues with {parser.required!r}")
        return allowed

    def _check_lengths(self, limit: int | None) -> None:
        for name, weights in self._boosts.items():
            longest = max(weights, key=len, default="")
            if limit is not None and len(longest) > limit:
                raise ValueError(
                    f"{name} {longest!r} has {len(longest)} characters, but `hold_form` ends a label after {limit}; "
                    f"set `max_label_length` to {len(longest)} or more"
                )

    def _find_forced_tokens(self) -> dict[tuple[ParserState, bytes], int]:
        """Return the tokens of the fixed text by position.

        A position is left out where a token of the vocabulary may extend from it into the free text that follows.
        """
        forced: dict[tuple[ParserState, bytes], int] = {}
        parser, pending = self._grammar.initial_state(), b""
        template = self._grammar.render(dict.fromkeys(self._grammar.fields, FILLER), FILLER)
        for token, begin, end in self._vocabulary.encode(template):
            required = parser.required.encode()[len(pending) :]
            if required and not parser.may_end and end - begin <= self._vocabulary.overlap(required):
                forced[parser, pending] = token
            step = self._step(parser, pending, token)
            if step is None or step[0].in_utterance:
                break
            parser, pending = step
        return forced

    def _marker(self, field: str) -> str:
        """Return the field's name and the text after it that no keyword token includes."""
        literal = BlockGrammar.with_values({}).literals[FIELDS.index(field)]
        opening = literal[literal.index(field) :]
        places = (before for name, before, _ in self._keyword_tokens if name == field)
        included = [len(before) for before in places if opening.encode().endswith(before)]
        return opening[: max(len(opening) - max(included), len(field))] if included else f"{field}:"

    def _find_keyword_tokens(self) -> dict[tuple[str, bytes, bytes], list[tuple[int, str, float]]]:
        """Return (token, keyword, weight) by (field, text required before the label, the label's text so far)."""
        found: dict[tuple[str, bytes, bytes], list[tuple[int, str, float]]] = defaultdict(list)
        for name, weights in self._boosts.items():
            places = [_KEYWORD_PLACE]
            if is_list_field(name):
                places += [f"{_KEYWORD_PLACE}, {FILLER}", f"{FILLER}, {_KEYWORD_PLACE}"]
            values = dict.fromkeys(self._grammar.fields, FILLER)
            for keyword, weight in weights.items():
                for place in places:
                    template = self._grammar.render(values | {name: place}, FILLER)
                    before, after = (part.encode() for part in template.split(_KEYWORD_PLACE))
                    text = before + keyword.encode() + after
                    start, stop = len(before), len(before + keyword.encode())
                    for token, begin, end in self._vocabulary.encode(text.decode()):
                        if begin < stop and end > start:
                            key = name, text[begin:start], text[start:begin]
                            found[key].append((token, keyword, weight))
        return found
