"""Replies of servers that return text only, complete and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.inference.transformers.detokenizer import decode_tokens
from sage_dialog.inference.vllm.streaming import StreamedReply, plain_text
from sage_dialog.llm.completions import Continuation

pytest.importorskip("transformers")

from small_tokenizers import TOKENIZERS


def pieces_of(tokenizer: Any, text: str) -> list[str]:
    """The text emitted after each letter of the server's text, and at the end."""
    pieces: list[str] = []
    stream = StreamedReply(tokenizer, pieces.append)
    after = []
    for end in range(1, len(text) + 1):
        pieces.clear()
        stream.update({"choices": [{"index": 0, "text": text[:end]}]})
        after.append("".join(pieces))
    pieces.clear()
    stream.end(Continuation(text, None, "stop"))
    return [*after, "".join(pieces)]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_a_servers_text_equals_the_decoded_tokens(name: str, data: st.DataObject) -> None:
    """The server decodes after a prompt, where SentencePiece's first token keeps its space."""
    tokenizer = TOKENIZERS[name]
    vocabulary = tokenizer.get_vocab()
    spaced = [token for piece, token in vocabulary.items() if piece.startswith("▁")]
    prompt = [vocabulary.get("▁a", vocabulary["a"])]
    some = st.integers(0, len(tokenizer) - 1) | st.sampled_from([*spaced, prompt[0]])
    tokens = data.draw(st.lists(some, max_size=8))
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, prompt + tokens))
    received = whole[len(before) :]
    assert (
        plain_text(tokenizer, received) == "".join(pieces_of(tokenizer, received)) == decode_tokens(tokenizer, tokens)
    )


@given(st.lists(st.sampled_from(["<end>", "<", "<en", "end>", "<e", "a", " "]), max_size=12).map("".join))
def test_no_part_of_a_special_token_is_emitted(text: str) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert "".join(pieces_of(tokenizer, text)) == plain_text(tokenizer, text)


def test_a_possible_beginning_of_a_special_token_is_held_back() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert pieces_of(tokenizer, "Hi <end>") == ["H", "i", " ", "", "", "", "", "", ""]
    assert pieces_of(tokenizer, "a <en!<") == ["a", " ", "", "", "", "<en!", "", "<"]
