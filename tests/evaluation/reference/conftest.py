"""A corpus of people's conversations with labels, and tiny random policies: a base and two adapters on it."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dialog.config import Reference
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.reference.items import reference_items
from sage_dialog.schemas import CORPUS_DIALOGUES

FEELINGS = {"sad": "I cried all day", "angry": "I could shout at them", "calm": "It is quiet here"}
STRATEGIES = {"question": "What happened?", "comfort": "I am here.", "suggestion": "Try a walk."}
NULLS = {"emotion": None, "motivation": None, "topics": None}


def turn(role: str, text: str, **labels: str) -> dict[str, Any]:
    sources = {f"{name}_source": "human" if name in labels else None for name in NULLS}
    return {"role": role, "text": text, **NULLS, **labels, **sources, "labels": []}


def dialogue(number: int, split: str, opened: bool = False) -> dict[str, Any]:
    """Three exchanges; the user speaks twice in a row once."""
    emotion, other = list(FEELINGS)[number % 3], list(STRATEGIES)
    turns = [turn("assistant", "Hello.", motivation="question")] if opened else []
    for exchange in range(3):
        strategy = other[(number + exchange) % 3]
        turns.append(turn("user", f"{FEELINGS[emotion]} {number}.", emotion=emotion))
        if exchange == 1:
            turns.append(turn("user", "And so on.", emotion=emotion))
        turns.append(turn("assistant", STRATEGIES[strategy], motivation=strategy))
    return {"dialogue_id": f"own/{split}/{number}", "corpus": "own", "split": split, "labels": [], "turns": turns}


@pytest.fixture(scope="session")
def corpus() -> DataFrame:
    rows = [dialogue(number, "train") for number in range(30)]
    rows += [dialogue(number, "valid", opened=number == 3) for number in range(6)]
    return from_rows(rows, CORPUS_DIALOGUES)


@pytest.fixture(scope="session")
def config() -> Reference:
    return Reference.from_base(dialogues=5, replies_per_dialogue=2, replicates=400, sampled_replies=4)


@pytest.fixture(scope="session")
def items(corpus: DataFrame, config: Reference) -> DataFrame:
    return reference_items(corpus, config, 0, assistant_may_open=True)


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    """`sage_0`, `sage_1_plain` and `sage_1`, which has blocks, with weights drawn by seed."""
    import torch
    from block_writers import END, TEMPLATE, TOKENIZERS
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("policies")
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS["words"](), eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    model = LlamaForCausalLM(
        LlamaConfig(
            **{"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.2},
            **{"eos_token_id": END, "pad_token_id": END, "bos_token_id": None},
        )
    )
    model.save_pretrained(folder / "sage_0")
    tokenizer.save_pretrained(folder / "sage_0")
    revision = weights_revision(folder / "sage_0")
    found = {"sage_0": Policy.write_card(folder / "sage_0", PolicyCard("sage_0", "base", False, "sage_0", revision))}
    for number, name in enumerate(("sage_1_plain", "sage_1"), 1):
        torch.manual_seed(number)
        lora = LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
        get_peft_model(LlamaForCausalLM.from_pretrained(folder / "sage_0"), lora).save_pretrained(folder / name)
        card = PolicyCard(name, "adapter", name == "sage_1", "sage_0", revision, "sage_0", revision)
        found[name] = Policy.write_card(folder / name, card)
    return found
