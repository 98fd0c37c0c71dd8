"""Training of a base from scratch."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_dialog.config import BaseModelConfig
from sage_dialog.core.seeds import generator
from sage_dialog.microworld.base_model import train_base

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = BaseModelConfig.from_base(
    vocabulary=400, layers=1, hidden=32, heads=2, experts=2, expert_hidden=32, steps=40, batch_size=8
)
WORDS = ("red", "green", "blue", "grey")


def chats() -> list[dict]:
    """Chats whose last message cannot be told from the others, so that their losses compete."""
    rng = generator(0, "chats")
    texts = [[str(rng.choice(WORDS)) for _ in range(2 + number % 5)] for number in range(64)]
    return [
        {"messages": [{"role": "user", "content": " ".join(text)}, {"role": "assistant", "content": "one two three"}]}
        for text in texts
    ]


def bits_of_messages(folder: Path) -> tuple[float, float]:
    """Return the mean loss of the tokens of the first message and of the last one, chat by chat without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    losses: tuple[list[float], list[float]] = ([], [])
    for chat in chats():
        prompt = tokenizer.apply_chat_template(chat["messages"][:1], add_generation_prompt=True)["input_ids"]
        ids = torch.tensor([tokenizer.apply_chat_template(chat["messages"])["input_ids"]])
        with torch.no_grad():
            found = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none").tolist()
        losses[0].extend(found[: len(prompt) - 1])
        losses[1].extend(found[len(prompt) - 1 :])
    first, last = (sum(each) / len(each) for each in losses)
    return first, last


def test_the_weight_of_the_last_message_turns_learning_towards_it(tmp_path: Path) -> None:
    found = {}
    for weight in (0.01, 1.0, 100.0):
        config = TINY.model_copy(update={"last_message_weight": weight})
        train_base(chats(), config, 0, tmp_path / str(weight), threads=1)
        found[weight] = bits_of_messages(tmp_path / str(weight))
    firsts, lasts = zip(*found.values(), strict=True)
    assert firsts[0] < firsts[1] < firsts[2] and lasts[0] > lasts[1] > lasts[2]
    assert firsts[2] > 2 * firsts[0] and lasts[0] > 2 * lasts[2]


def test_weights_other_than_one_take_the_same_way_as_one(tmp_path: Path) -> None:
    """Nearly equal weights give nearly equal models: no padding, and no token of another message, counts."""
    for weight in (1.0, 1.0 + 1e-9):
        train_base(
            chats(), TINY.model_copy(update={"last_message_weight": weight}), 0, tmp_path / str(weight), threads=1
        )
    one, other = (bits_of_messages(tmp_path / str(weight)) for weight in (1.0, 1.0 + 1e-9))
    assert one == pytest.approx(other, abs=1e-3)
