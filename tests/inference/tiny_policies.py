"""A tiny random Mixtral with a word tokenizer, and two adapters on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dialog.core.policies import Policy, PolicyCard, weights_revision

WORDS = [f"w{number}" for number in range(40)]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def save_tokenizer(path: Path) -> int:
    """Write the tokenizer; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<end>", "system", "user", "assistant", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="user"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    return len(vocabulary)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("base")
    config = MixtralConfig(
        vocab_size=save_tokenizer(path),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=96,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(path)
    return Policy.write_card(path, PolicyCard("sage_0", "base", False, "sage_0", weights_revision(path)))


@pytest.fixture(scope="session")
def adapters(base: Policy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Policy]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import MixtralForCausalLM

    made = []
    for number, name in enumerate(("sage_1", "sage_2")):
        path = tmp_path_factory.mktemp(name)
        torch.manual_seed(number + 1)
        config = LoraConfig(
            r=4,
            lora_alpha=8,
            init_lora_weights=False,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        )
        get_peft_model(MixtralForCausalLM.from_pretrained(base.path), config).save_pretrained(path)
        card = PolicyCard(name, "adapter", True, "sage_0", base.card.base_revision, "sage_0", base.card.base_revision)
        made.append(Policy.write_card(path, card))
    return made[0], made[1]
