"""Small tokenizers of three kinds: words, byte-level, SentencePiece with byte fallback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LETTERS = "abc .,{é☂"


def words() -> Any:
    return Tokenizer(models.WordLevel({"a": 0, "b": 1, "c.": 2, "☂": 3}, unk_token="a"))


def byte_level() -> Any:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: token for token, letter in enumerate(alphabet)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_pieces() -> Any:
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "▁▁", *LETTERS]
    tokenizer = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, [], byte_fallback=True))
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return tokenizer


def wrap_tokenizer(make: Callable[[], Any]) -> Any:
    tokenizer = make()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True), AddedToken("<spare>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


TOKENIZERS = {make.__name__: wrap_tokenizer(make) for make in (words, byte_level, sentence_pieces)}
