"""The pieces of a reply that is being written, under three kinds of tokenizers and any tokens at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.inference.transformers.detokenizer import IncrementalDetokenizer, decode_tokens

pytest.importorskip("transformers")

LETTERS = "abc .,{é☂"


def words() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"a": 0, "b": 1, "c.": 2, "☂": 3}, unk_token="a"))


def byte_level() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made = Tokenizer(models.BPE({letter: token for token, letter in enumerate(alphabet)}, []))
    made.decoder = decoders.ByteLevel()
    return made


def sentence_pieces() -> Any:
    from tokenizers import Tokenizer, decoders, models

    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "▁▁", *LETTERS]
    made = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, [], byte_fallback=True))
    strip = decoders.Strip(" ", 1, 0)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return made


def fast(make: Callable[[], Any]) -> Any:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    made = make()
    made.add_special_tokens([AddedToken("<end>", special=True), AddedToken("<spare>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


TOKENIZERS = {make.__name__: fast(make) for make in (words, byte_level, sentence_pieces)}


def pieces_of(tokenizer: Any, tokens: list[int]) -> list[str]:
    """What was heard after each token, and last what was held back."""
    heard: list[str] = []
    transcript = IncrementalDetokenizer(tokenizer, heard.append)
    after = []
    for token in tokens:
        before = len(heard)
        transcript.add(token)
        after.append("".join(heard[before:]))
    before = len(heard)
    transcript.end()
    assert all(heard)  # nobody is called for nothing
    return [*after, "".join(heard[before:])]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_the_pieces_are_the_text_whatever_the_tokens(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    some = st.integers(0, len(tokenizer) + 1)  # two beyond the last: padded embeddings
    letters = st.sampled_from(LETTERS + "\ufffd\n").map(lambda letter: letter_tokens(tokenizer, letter))
    tokens = joined(data.draw(st.lists(some.map(lambda token: [token]) | letters, max_size=15)))
    assert "".join(pieces_of(tokenizer, tokens)) == decode_tokens(tokenizer, tokens)


def joined(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


def letter_tokens(tokenizer: Any, letter: str) -> list[int]:
    """The bytes of a letter, where the tokenizer has them; else a word."""
    vocabulary = tokenizer.get_vocab()
    if "<0x00>" in vocabulary:
        return [vocabulary[f"<0x{byte:02X}>"] for byte in letter.encode()]
    if len(vocabulary) < 256:
        return [2]
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [vocabulary[bytes_to_unicode()[byte]] for byte in letter.encode()]


def test_a_letter_is_heard_with_its_last_byte() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    tokens = joined([letter_tokens(tokenizer, letter) for letter in "aé☂."])
    assert pieces_of(tokenizer, tokens) == ["a", "", "é", "", "", "☂", ".", ""]


def test_a_run_of_byte_pieces_is_heard_with_the_token_behind_it() -> None:
    tokenizer = TOKENIZERS["sentence_pieces"]
    a, comma = tokenizer.convert_tokens_to_ids(["▁a", ","])
    spare = tokenizer.convert_tokens_to_ids("<spare>")
    first, second = letter_tokens(tokenizer, "é")
    newline = letter_tokens(tokenizer, "\n")[0]
    assert pieces_of(tokenizer, [a, a, newline, first, second, comma, a]) == ["a", " a", "", "", "", "\né,", " a", ""]
    # a letter that is never whole spoils its whole run, across tokens that are not shown
    assert pieces_of(tokenizer, [a, newline, spare, first, comma]) == ["a", "", "", "", "\ufffd\ufffd,", ""]
    assert pieces_of(tokenizer, [a, newline]) == ["a", "", "\n"]


def test_words_come_one_by_one_and_special_tokens_never() -> None:
    tokenizer = TOKENIZERS["words"]
    end, spare = tokenizer.convert_tokens_to_ids(["<end>", "<spare>"])
    assert pieces_of(tokenizer, [0, spare, 2, 3, end]) == ["a", "", " c.", " ☂", "", ""]


def test_a_long_reply_is_heard_all_along() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    choices = random.Random(1)
    tokens = joined([letter_tokens(tokenizer, choices.choice(LETTERS)) for _ in range(300)])
    assert max(map(len, pieces_of(tokenizer, tokens))) == 1
