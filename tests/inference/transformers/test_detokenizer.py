"""Pieces of a streamed reply, for three kinds of tokenizers and arbitrary tokens."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.inference.transformers.detokenizer import IncrementalDetokenizer, decode_tokens

pytest.importorskip("transformers")

from small_tokenizers import LETTERS, TOKENIZERS


def pieces_of(tokenizer: Any, tokens: list[int]) -> list[str]:
    """Return the text emitted after each token, and at the end."""
    emitted: list[str] = []
    detokenizer = IncrementalDetokenizer(tokenizer, emitted.append)
    after = []
    for token in tokens:
        before = len(emitted)
        detokenizer.add(token)
        after.append("".join(emitted[before:]))
    before = len(emitted)
    detokenizer.end()
    assert all(emitted)  # no empty pieces
    return [*after, "".join(emitted[before:])]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_the_pieces_are_the_text_whatever_the_tokens(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    any_token = st.integers(0, len(tokenizer) + 1)  # two beyond the last: padded embeddings
    letters = st.sampled_from(LETTERS + "\ufffd\n").map(lambda letter: letter_tokens(tokenizer, letter))
    tokens = flatten(data.draw(st.lists(any_token.map(lambda token: [token]) | letters, max_size=15)))
    assert "".join(pieces_of(tokenizer, tokens)) == decode_tokens(tokenizer, tokens)


def flatten(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


def letter_tokens(tokenizer: Any, letter: str) -> list[int]:
    """Return the byte tokens of a letter, or a word if the tokenizer has no byte tokens."""
    vocabulary = tokenizer.get_vocab()
    if "<0x00>" in vocabulary:
        return [vocabulary[f"<0x{byte:02X}>"] for byte in letter.encode()]
    if len(vocabulary) < 256:
        return [2]
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [vocabulary[bytes_to_unicode()[byte]] for byte in letter.encode()]


def test_a_letter_is_emitted_with_its_last_byte() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    tokens = flatten([letter_tokens(tokenizer, letter) for letter in "aé☂."])
    assert pieces_of(tokenizer, tokens) == ["a", "", "é", "", "", "☂", ".", ""]


def test_a_run_of_byte_pieces_is_emitted_with_the_next_token() -> None:
    tokenizer = TOKENIZERS["sentence_pieces"]
    a, comma = tokenizer.convert_tokens_to_ids(["▁a", ","])
    spare = tokenizer.convert_tokens_to_ids("<spare>")
    first, second = letter_tokens(tokenizer, "é")
    newline = letter_tokens(tokenizer, "\n")[0]
    assert pieces_of(tokenizer, [a, a, newline, first, second, comma, a]) == ["a", " a", "", "", "", "\né,", " a", ""]
    # an incomplete letter invalidates its whole run of bytes, also across special tokens
    assert pieces_of(tokenizer, [a, newline, spare, first, comma]) == ["a", "", "", "", "\ufffd\ufffd,", ""]
    assert pieces_of(tokenizer, [a, newline]) == ["a", "", "\n"]


def test_words_are_emitted_one_by_one_and_special_tokens_never() -> None:
    tokenizer = TOKENIZERS["words"]
    end, spare = tokenizer.convert_tokens_to_ids(["<end>", "<spare>"])
    assert pieces_of(tokenizer, [0, spare, 2, 3, end]) == ["a", "", " c.", " ☂", "", ""]


def test_a_long_reply_is_emitted_letter_by_letter() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    rng = random.Random(1)
    tokens = flatten([letter_tokens(tokenizer, rng.choice(LETTERS)) for _ in range(300)])
    assert max(map(len, pieces_of(tokenizer, tokens))) == 1
