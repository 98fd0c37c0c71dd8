"""Fine-tuning and preference tuning: the loss, the starting adapter, errors."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference
from sage_dialog.core.policies import Policy
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.sft import fine_tune
from sage_dialog.training.trainer import filter_by_length

CONFIG = FineTuning.from_base(learning_rate=1e-2, batch_size=2, max_steps=3, max_length=200, epochs=1.0)
LORA = LoraSettings.from_base(r=4, alpha=8)


def _train(base, conversations, out, start=None, config=CONFIG, seed=0):
    return _trained(base, conversations, out, start, config, seed).policy


def _trained(base, conversations, out, start=None, config=CONFIG, seed=0):
    return fine_tune("sage_t", base, start, conversations, config, LORA, seed, out, blocks=True, threads=1)


def test_the_loss_is_on_assistant_messages_and_their_end_only(base, conversations, tmp_path, monkeypatch):
    import trl

    seen = {}
    genuine = trl.SFTTrainer.train

    def watched(trainer, **resumed):
        seen["batch"] = next(iter(trainer.get_train_dataloader()))
        seen["tokenizer"] = trainer.processing_class
        return genuine(trainer, **resumed)

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
    configuration = (one.path / "adapter_config.json").read_text()
    assert configuration == (two.path / "adapter_config.json").read_text()
    assert str(tmp_path) not in configuration
    targets = [names for key, names in json.loads(configuration).items() if key.startswith("target_")]
    assert targets == [sorted(names) for names in targets], "an order that changes with the hash seed of the process"


def test_refinement_continues_the_adapter_it_starts_from(base, conversations, tmp_path):
    """With a vanishing learning rate the next policy is the one before, not a fresh adapter."""
    from safetensors.torch import load_file

    first = _train(base, conversations, tmp_path / "first")
    still = CONFIG.model_copy(update={"learning_rate": 1e-12})
    second = _train(base, conversations, tmp_path / "second", start=first, config=still)
    before, after = (load_file(policy.path / "adapter_model.safetensors") for policy in (first, second))
    assert before.keys() == after.keys()
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)
    assert second.card.parent == "sage_t" and second.card.parent_revision == first.revision()


def test_an_adapter_of_another_base_is_an_error(base, make_base, conversations, tmp_path):
    first = _train(base, conversations, tmp_path / "first")
    with pytest.raises(ValueError, match="train sage_t again on this base"):
        _train(make_base(1), conversations, tmp_path / "second", start=first)


def test_a_base_as_start_is_an_error(base, conversations, tmp_path):
    with pytest.raises(ValueError, match=r"sage_0 at .* is a base; only an adapter can be trained further"):
        _train(base, conversations, tmp_path / "a", start=base)


def test_a_policy_consists_of_weights_configuration_and_card(base, conversations, tmp_path):
    files = {path.name for path in _train(base, conversations, tmp_path / "a").path.rglob("*")}
    assert files == {"adapter_model.safetensors", "adapter_config.json", "sage_policy.json"}


def test_long_conversations_are_rejected_and_listed(base, conversations, tmp_path, caplog):
    long = to_rows(conversations)
    long[0]["messages"][1]["content"] *= 40
    table = from_rows(long, schemas.SFT_CONVERSATIONS)
    training_rejects = _trained(base, table, tmp_path / "a").training_rejects
    assert "1 of 6 conversations exceed 200 tokens and are left out; see training_rejects_sage_t" in caplog.text
    assert dict(training_rejects.dtypes) == dict(from_rows([], schemas.TRAINING_REJECTS).dtypes)
    ((row, tokens, limit),) = (tuple(row.values()) for row in to_rows(training_rejects))
    assert (row, limit) == ("c0", 200) and tokens > 200
    with pytest.raises(ValueError, match=r"no conversations to train on \(6 given, 6 over 16 tokens\)"):
        _train(base, table, tmp_path / "b", config=CONFIG.model_copy(update={"max_length": 16}))


def test_policies_from_one_start_have_the_seed_of_that_start(base, conversations, tmp_path):
    """An ablation under another name begins with the same adapter and reads the rows in the same order."""

    def weights(name, config=CONFIG):
        return fine_tune(name, base, None, conversations, config, LORA, 0, tmp_path / name, blocks=True, threads=1)

    assert weights("sage_1").policy.revision() == weights("sage_1_plain").policy.revision()
    grouped = CONFIG.model_copy(update={"group_by_length": True})
    assert weights("sage_a", grouped).policy.revision() == weights("sage_b", grouped).policy.revision()


def test_both_forms_of_a_mix_leave_out_the_same_conversations(base, conversations, tmp_path):
    blocks = to_rows(conversations)
    for number, row in enumerate(blocks):
        row["messages"][2]["content"] = "{u_motivation: sharing} " * (30 if number in (1, 4) else 1) + "You can."
    plain = json.loads(json.dumps(blocks).replace("{u_motivation: sharing} ", ""))
    plain, blocks = (from_rows(rows, schemas.SFT_CONVERSATIONS) for rows in (plain, blocks))

    def rejected(rows, measured=None):
        result = fine_tune(
            *("sage_t", base, None, rows, CONFIG, LORA, 0, tmp_path / str(measured is None)),
            **{"blocks": True, "threads": 1, "measured": measured},
        )
        return {row["row"]: row["tokens"] for row in to_rows(result.training_rejects)}

    assert set(rejected(blocks)) == {"c1", "c4"} and rejected(plain) == {}
    assert rejected(plain, measured=blocks) == rejected(blocks)
    with pytest.raises(ValueError, match="sage_t: c5 is in one form of the training mix only; make both again"):
        rejected(plain, measured=blocks[:5])


def test_examples_of_exactly_max_length_are_kept(caplog):
    examples = pd.DataFrame({"row": ["1", "2", "3", "3"], "tokens": [1, 2, 3, 4]})
    kept, training_rejects = filter_by_length("sage_t", "words", examples, 2)
    assert kept.equals(examples[:2])
    assert to_rows(training_rejects) == [{"row": "3", "tokens": n, "max_length": 2} for n in (3, 4)]
    assert "sage_t: 2 of 4 words exceed 2 tokens and are left out" in caplog.text


def test_dpo_moves_the_policy_towards_the_chosen_reply(base, conversations, tmp_path):
    start = _train(base, conversations, tmp_path / "start")
    prompt = [{"role": "user", "content": "My boss took the roses."}]
    chosen, rejected = "You can do this.", "Plot twist of the year, lol."
    pairs = from_rows(
        [
            {"situation_id": f"s{i}", "turn": 1, "prompt": prompt, "chosen": chosen, "rejected": rejected}
            for i in range(8)
        ],
        schemas.DPO_PAIRS,
    )
    config = Preference.from_base(learning_rate=1e-2, batch_size=2, epochs=2.0, sft_weight=0.0)
    preferred = preference_tune("sage_dpo", base, start, pairs, config, 0, tmp_path / "dpo", threads=1).policy
    repeated = preference_tune("sage_dpo", base, start, pairs, config, 0, tmp_path / "again", threads=1).policy
    assert preferred.revision() == repeated.revision()

    def margin(policy: Policy) -> float:
        return _log_probability(base, policy, prompt, chosen)[0] - _log_probability(base, policy, prompt, rejected)[0]

    assert margin(preferred) > margin(start) + 1


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_dpo_compares_replies_and_their_end_with_the_starting_policy(
    base, conversations, tmp_path, monkeypatch, sft_weight
):
    """Before the first step policy and reference agree: the loss is ln 2, the weighed SFT term on the chosen, and
    two thousandths of balance between the experts.
    """
    import torch
    import trl

    seen = {}
    genuine = trl.DPOTrainer.train

    def watched(trainer, **resumed):
        batch = next(iter(trainer.get_train_dataloader()))
        replies = zip(batch["input_ids"], batch["completion_mask"].bool(), strict=True)
        seen["replies"] = [trainer.processing_class.decode(ids[mask]) for ids, mask in replies]
        with torch.no_grad():
            seen["loss"] = trainer.compute_loss(trainer.model, batch).item()
        return genuine(trainer, **resumed)

    monkeypatch.setattr(trl.DPOTrainer, "train", watched)
    start = _train(base, conversations, tmp_path / "start")
    prompt = [
        {"role": "user", "content": "Hm."},
        {"role": "assistant", "content": "Oh."},
        {"role": "user", "content": "I"},
    ]
    chosen = "You can do this."
    row = {"situation_id": "s", "turn": 3, "prompt": prompt, "chosen": chosen, "rejected": "Plot twist."}
    pairs = from_rows([row], schemas.DPO_PAIRS)
    config = Preference.from_base(learning_rate=1e-3, batch_size=1, sft_weight=sft_weight, beta=5.0)
    preference_tune("sage_dpo", base, start, pairs, config, 0, tmp_path / "dpo", threads=1)
    assert seen["replies"] == ["You can do this.<|end|>", "Plot twist.<|end|>"]
    log_probability, tokens = _log_probability(base, start, prompt, chosen)
    assert seen["loss"] == pytest.approx(math.log(2) - sft_weight * log_probability / tokens + 0.002, abs=2e-4)


def _log_probability(base, policy, prompt, reply):
    """Of a reply with its end, and how many tokens it has."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), policy.path)
    prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    ids = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": reply}], return_tensors="pt")
    with torch.no_grad():
        logits = model(**ids).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
    return logits.gather(1, ids["input_ids"][0, len(prompt_ids) :, None]).sum().item(), len(logits)
