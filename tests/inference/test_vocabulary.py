"""The bytes of tokens, and the tokens by their beginning, against plain search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from block_writers import CHAINS, SPACED_TEMPLATE, TEMPLATE, TOKENIZERS, sentence_pieces

from sage_dialog.sac import render
from sage_dialog.sac.grammar import is_label_text

pytest.importorskip("transformers")

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sage_dialog.inference.vocabulary import Vocabulary, is_utf8_prefix


@pytest.mark.parametrize("template", [TEMPLATE, SPACED_TEMPLATE])
def test_a_reply_is_tokenised_as_training_does_it(template: str) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=sentence_pieces(), eos_token="<end>", pad_token="<end>", chat_template=template
    )
    text = render(CHAINS[0])
    user_message, assistant_message = {"role": "user", "content": "x"}, {"role": "assistant", "content": text}
    trained = tokenizer.apply_chat_template([user_message, assistant_message])["input_ids"]
    prompt = tokenizer.apply_chat_template([user_message], add_generation_prompt=True)["input_ids"]
    spans = Vocabulary(tokenizer).encode(text)
    assert [token for token, _, _ in spans] == trained[len(prompt) : -1]
    assert [begin for _, begin, _ in spans] == [0, *(end for _, _, end in spans[:-1])]
    assert spans[-1][2] == len(text.encode())


def test_a_tokenizer_whose_tokens_depend_on_their_neighbours_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="a"))
    with pytest.raises(ValueError, match="its tokenizer is neither byte-level nor SentencePiece"):
        Vocabulary(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>"))


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_tokens_are_found_by_their_bytes(make_tokenizer: Callable[[], Any]) -> None:
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), eos_token="<end>"))
    written = dict(enumerate(vocabulary.tokens))
    for text in (b"", b" ", b"seeking advice, a_emotion", b": [", "é☂".encode(), b"no token goes beyond this"):
        longer = {token: rest[len(text) :] for token, rest in written.items() if rest.startswith(text) and rest != text}
        found = vocabulary.label_tokens(text)
        assert sorted(vocabulary.prefix_tokens(text)) == [
            t for t, own in written.items() if own and text.startswith(own)
        ]
        assert found.tokens.tolist() == sorted(longer)
        inside = {token for token, rest in longer.items() if is_label_text(rest.decode(errors="replace"))}
        assert set(found.tokens[found.inside].tolist()) == inside
        assert {token for tokens in found.reserved.values() for token in tokens} == set(longer) - inside
        beyond = [
            begin
            for begin in range(len(text))
            if any(rest.startswith(text[begin:]) and rest != text[begin:] for rest in written.values())
        ]
        assert vocabulary.overlap(text) == min(beyond, default=len(text))


def test_a_text_may_end_within_a_letter_but_not_begin_there() -> None:
    letters = "aé☂😀".encode()
    assert all(is_utf8_prefix(letters[:end]) for end in range(len(letters) + 1))
    assert not any(is_utf8_prefix(text) for text in (letters[2:], b"a\xff", b"\xe2a"))
