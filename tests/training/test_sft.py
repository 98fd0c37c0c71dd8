"""Supervised fine-tuning: what the loss sees, what goes on, what is refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.parameters import FineTuning, LoraDials, Preference
from sage_dialog.policies import Policy
from sage_dialog.training.preference import prefer
from sage_dialog.training.sft import fine_tune

DIALS = FineTuning(learning_rate=1e-2, batch_size=2, max_steps=3, max_length=200)
LORA = LoraDials(r=4, alpha=8)


def _train(base, conversations, out, start=None, dials=DIALS, seed=0):
    return fine_tune("sage_t", base, start, conversations, dials, LORA, seed, out, blocks=True, threads=1)


def test_the_loss_is_on_assistant_messages_and_their_end_alone(base, conversations, tmp_path, monkeypatch):
    import trl

    seen = {}
    genuine = trl.SFTTrainer.train

    def watched(trainer):
        seen["batch"] = next(iter(trainer.get_train_dataloader()))
        seen["tokenizer"] = trainer.processing_class
        return genuine(trainer)

    monkeypatch.setattr(trl.SFTTrainer, "train", watched)
    _train(base, conversations, tmp_path / "a")
    labels = seen["batch"]["labels"][0]
    learned = seen["tokenizer"].decode(labels[labels != -100])
    assert learned == "{u_motivation: sharing} You can do this.<|end|>Keep going, step by step.<|end|>"


def test_the_same_seed_gives_the_same_adapter_bytes(base, conversations, tmp_path):
    one = _train(base, conversations, tmp_path / "one")
    two = _train(base, conversations, tmp_path / "two")
    other = _train(base, conversations, tmp_path / "other", seed=1)
    assert one.revision() == two.revision() != other.revision()
    assert str(tmp_path) not in (one.path / "adapter_config.json").read_text()


def test_refinement_continues_the_adapter_it_starts_from(base, conversations, tmp_path):
    """With a vanishing learning rate the next policy is the one before, not a fresh adapter."""
    from safetensors.torch import load_file

    first = _train(base, conversations, tmp_path / "first")
    still = DIALS.model_copy(update={"learning_rate": 1e-12})
    second = _train(base, conversations, tmp_path / "second", start=first, dials=still)
    before, after = (load_file(policy.path / "adapter_model.safetensors") for policy in (first, second))
    assert before.keys() == after.keys()
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)
    assert second.card.parent == "sage_t" and second.card.parent_revision == first.revision()


def test_an_adapter_of_another_base_is_refused(base, make_base, conversations, tmp_path):
    first = _train(base, conversations, tmp_path / "first")
    with pytest.raises(ValueError, match="train sage_t again on this base"):
        _train(make_base(1), conversations, tmp_path / "second", start=first)


def test_long_conversations_are_left_out_and_counted(base, conversations, tmp_path, caplog):
    long = conversations.to_pylist()
    long[0]["messages"][1]["content"] *= 40
    table = pa.Table.from_pylist(long, schema=schemas.SFT_CONVERSATIONS)
    _train(base, table, tmp_path / "a")
    assert "1 of 6 conversations exceed 200 tokens" in caplog.text
    with pytest.raises(ValueError, match="no conversation to train on"):
        _train(base, table, tmp_path / "b", dials=DIALS.model_copy(update={"max_length": 16}))


def test_dpo_moves_the_policy_towards_the_chosen_reply(base, conversations, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    start = _train(base, conversations, tmp_path / "start")
    prompt = [{"role": "user", "content": "My boss took the roses."}]
    chosen, rejected = "You can do this.", "Plot twist of the year, lol."
    pairs = pa.Table.from_pylist(
        [
            {"situation_id": f"s{i}", "turn": 1, "prompt": prompt, "chosen": chosen, "rejected": rejected}
            for i in range(8)
        ],
        schema=schemas.DPO_PAIRS,
    )
    dials = Preference(learning_rate=1e-2, batch_size=2, epochs=2.0, sft_weight=0.0)
    preferred = prefer("sage_dpo", base, start, pairs, dials, 0, tmp_path / "dpo", threads=1)
    again = prefer("sage_dpo", base, start, pairs, dials, 0, tmp_path / "again", threads=1)
    assert preferred.revision() == again.revision()
    assert [file.name for file in preferred.path.iterdir() if file.is_dir()] in ([], ["trainer"])

    tokenizer = AutoTokenizer.from_pretrained(base.path)

    def margin(policy: Policy) -> float:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), policy.path)
        return _log_probability(model, tokenizer, prompt, chosen) - _log_probability(model, tokenizer, prompt, rejected)

    with torch.no_grad():
        assert margin(preferred) > margin(start) + 1


def _log_probability(model, tokenizer, prompt, reply):
    told = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    ids = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": reply}], return_tensors="pt")
    logits = model(**ids).logits[0, len(told) - 1 : -1].log_softmax(-1)
    return logits.gather(1, ids["input_ids"][0, len(told) :, None]).sum().item()
