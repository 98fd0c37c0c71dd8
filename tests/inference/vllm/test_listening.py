"""What is made of replies of which a server tells the text alone, as a whole and while they come."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.inference.transformers.detokenizer import decode_tokens
from sage_dialog.inference.vllm.streaming import Listener, plain_text
from sage_dialog.llm.completions import Continuation

pytest.importorskip("transformers")

from test_transcript import TOKENIZERS


def heard_of(tokenizer: Any, text: str) -> list[str]:
    """What was heard after each letter of the server's text, and last what was held back."""
    pieces: list[str] = []
    listener = Listener(tokenizer, pieces.append)
    after = []
    for end in range(1, len(text) + 1):
        pieces.clear()
        listener.read({"choices": [{"index": 0, "text": text[:end]}]})
        after.append("".join(pieces))
    pieces.clear()
    listener.end(Continuation(text, None, "stop"))
    return [*after, "".join(pieces)]


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_a_servers_text_is_read_as_the_tokens_are(name: str, data: st.DataObject) -> None:
    """The server decodes behind a prompt, where SentencePiece's first token keeps its space."""
    tokenizer = TOKENIZERS[name]
    vocabulary = tokenizer.get_vocab()
    spaced = [token for piece, token in vocabulary.items() if piece.startswith("▁")]
    prompt = [vocabulary.get("▁a", vocabulary["a"])]
    some = st.integers(0, len(tokenizer) - 1) | st.sampled_from([*spaced, prompt[0]])
    tokens = data.draw(st.lists(some, max_size=8))
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, prompt + tokens))
    told = whole[len(before) :]
    assert plain_text(tokenizer, told) == "".join(heard_of(tokenizer, told)) == decode_tokens(tokenizer, tokens)


@given(st.lists(st.sampled_from(["<end>", "<", "<en", "end>", "<e", "a", " "]), max_size=12).map("".join))
def test_no_special_token_is_heard_nor_its_beginning(text: str) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert "".join(heard_of(tokenizer, text)) == plain_text(tokenizer, text)


def test_what_may_begin_a_special_token_waits_until_it_does_not() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assert heard_of(tokenizer, "Hi <end>") == ["H", "i", " ", "", "", "", "", "", ""]
    assert heard_of(tokenizer, "a <en!<") == ["a", " ", "", "", "", "<en!", "", "<"]
