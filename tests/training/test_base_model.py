"""The demo's base: same seed same bytes, opened by plain transformers, a template fit for training."""

from __future__ import annotations

from sage_dialog.microworld.base_model import train_tokenizer
from sage_dialog.microworld.base_text import documents
from sage_dialog.microworld.world import load_world


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(base, make_base):
    assert make_base(0).revision() == base.revision() == base.card.base_revision
    assert make_base(1).revision() != base.revision()


def test_plain_transformers_opens_it(base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModelForCausalLM.from_pretrained(base.path)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello."}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model(**chat).logits.shape[-1] == len(tokenizer)
    assert model.config.model_type == "mixtral"


def test_any_text_survives_the_tokenizer():
    tokenizer = train_tokenizer(documents(load_world(), 50, 0), 600)
    for text in ("{u_motivation: sharing, u_topic: [a]} Hi!\nNew line, ünïcode 🎈", "  two  spaces ", "<|user|x"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
