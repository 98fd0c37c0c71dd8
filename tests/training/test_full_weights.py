"""Full fine-tuning, whose policies are used like adapters, and quantized bases."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sage_dialog import schemas
from sage_dialog.config import FineTuning, LoraSettings, Preference, SamplingConfig
from sage_dialog.core.tables import from_rows
from sage_dialog.inference.engine import Prompt
from sage_dialog.inference.transformers.engine import TransformersEngine
from sage_dialog.training.dpo import preference_tune
from sage_dialog.training.sft import fine_tune

pytestmark = pytest.mark.slow

CONFIG = FineTuning.from_base(learning_rate=1e-2, batch_size=2, max_steps=3, max_length=200, epochs=1.0)
STILL = CONFIG.model_copy(update={"learning_rate": 1e-12})
LORA = LoraSettings.from_base(r=4, alpha=8)


def trained(base, conversations, scratch, name="sage_w", start=None, config=CONFIG, lora=None):
    return fine_tune(name, base, start, conversations, config, lora, 0, scratch, blocks=True, threads=1).policy


@pytest.fixture
def whole(base, conversations, tmp_path):
    return trained(base, conversations, tmp_path)


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(20, 60)[None]).logits


def opened(base, policy=None) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path)
    return model if policy is None else PeftModel.from_pretrained(model, policy.path)


def test_every_weight_of_the_base_is_trained_and_saved(base, whole, tmp_path):
    from safetensors.torch import load_file

    before = dict(opened(base).named_parameters())
    after = load_file(whole.path / "adapter_model.safetensors")
    trained_as = {key.removeprefix("base_model.model."): weight for key, weight in after.items()}
    assert before.keys() <= trained_as.keys() <= {*before, "lm_head.weight"}  # tied to the embeddings
    assert all((trained_as[key] - weight).abs().max() > 1e-3 for key, weight in before.items())
    assert (trained_as["lm_head.weight"] == trained_as["model.embed_tokens.weight"]).all()


def test_weights_in_bf16_are_trained_in_fp32(base):
    import torch
    from transformers import AutoModelForCausalLM

    from sage_dialog.training.full_weights import full_adapter

    adapter = full_adapter(AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.bfloat16))
    assert {weight.dtype for weight in adapter.parameters() if weight.requires_grad} == {torch.float32}
    assert logits(adapter).isfinite().all()


def test_a_full_adapter_merges_into_a_whole_model(base, whole, tmp_path):
    adapted = logits(opened(base, whole))
    opened(base, whole).merge_and_unload().save_pretrained(tmp_path / "merged")
    from transformers import AutoModelForCausalLM

    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - adapted).abs().max() < 1e-4
    assert (logits(opened(base)) - adapted).abs().max() > 0.1


def test_a_full_adapter_is_trained_further(base, conversations, whole, tmp_path):
    """With a vanishing learning rate the next policy equals its start, whatever the LoRA parameters."""
    after = trained(base, conversations, tmp_path, "sage_x", whole, STILL, LORA)
    assert (logits(opened(base, after)) - logits(opened(base, whole))).abs().max() < 1e-5
    assert after.card.parent_revision == whole.revision()


def test_one_engine_samples_from_the_base_and_several_full_adapters(base, conversations, whole, tmp_path):
    other = trained(base, conversations, tmp_path, "sage_o", config=CONFIG.model_copy(update={"learning_rate": 3e-2}))
    prompts = [Prompt(({"role": "user", "content": f"My boss took {number} roses."},), (number,)) for number in (1, 2)]
    config = SamplingConfig.from_base(max_new_tokens=12, top_k=100)

    def replies(engine, policy):
        return [[sample.text for sample in samples] for samples in engine.sample(policy.name, prompts, config, 2)]

    together = TransformersEngine(base, [whole, other], seed=0, threads=1)
    alone = {policy.name: TransformersEngine(base, [policy], seed=0, threads=1) for policy in (base, whole, other)}
    for policy in (whole, base, other, whole, other, base):
        assert replies(together, policy) == replies(alone[policy.name], policy)
    assert len({str(replies(together, policy)) for policy in (base, whole, other)}) == 3


def test_one_engine_does_not_hold_full_adapters_and_lora(base, conversations, whole, tmp_path):
    small = trained(base, conversations, tmp_path, "sage_l", lora=LORA)
    with pytest.raises(ValueError, match=r"'sage_w' at .* holds all weights, 'sage_l' at .* train them alike"):
        TransformersEngine(base, [small, whole], seed=0, threads=1)


def test_the_reference_of_preference_tuning_is_the_starting_policy(base, whole, tmp_path, monkeypatch):
    import torch
    import trl

    seen = {}
    genuine = trl.DPOTrainer.train

    def watched(trainer, **resumed):
        with torch.no_grad():
            seen["trained"] = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
            seen["loss"] = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).item()
        return genuine(trainer, **resumed)

    monkeypatch.setattr(trl.DPOTrainer, "train", watched)
    pair = {"prompt": [{"role": "user", "content": "Hm."}], "chosen": "You can do this.", "rejected": "Plot twist."}
    pairs = from_rows([{"situation_id": "s", "turn": 1, **pair}], schemas.DPO_PAIRS)
    config = Preference.from_base(learning_rate=1e-3, batch_size=1, sft_weight=0.0, beta=5.0, warmup_ratio=0.0)
    preferred = preference_tune("sage_dpo", base, whole, pairs, config, 0, tmp_path, threads=1).policy
    assert seen["trained"] and all(".default." in name for name in seen["trained"])
    assert seen["loss"] == pytest.approx(math.log(2) + 0.002, abs=2e-4)  # and the balance between the experts
    assert (logits(opened(base, preferred)) - logits(opened(base, whole))).abs().max() > 1e-3
    names = {path.name for path in preferred.path.rglob("*")}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "sage_policy.json"}


def test_gradient_checkpointing_keeps_the_weights_and_weight_decay_changes_them(base, conversations, tmp_path):
    def revision(**config):
        scratch = tmp_path / "-".join(config)
        return trained(base, conversations, scratch, config=CONFIG.model_copy(update=config), lora=LORA)

    plain, lean, decayed = revision(), revision(gradient_checkpointing=True), revision(weight_decay=0.5)
    assert (logits(opened(base, lean)) - logits(opened(base, plain))).abs().max() < 1e-4
    assert (logits(opened(base, decayed)) - logits(opened(base, plain))).abs().max() > 1e-4


def test_a_quantized_base_is_trained_on_and_unchanged(base, conversations, tmp_path, caplog, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="bases in 4 bits need bitsandbytes: pip install '.[nf4]'")
    import trl

    seen = {}
    genuine = trl.SFTTrainer.train

    def watched(trainer, **resumed):
        seen.update(trainer.model.named_parameters())
        return genuine(trainer, **resumed)

    monkeypatch.setattr(trl.SFTTrainer, "train", watched)
    lora = LORA.model_copy(update={"target_modules": ("q_proj", "v_proj")})
    config = CONFIG.model_copy(update={"quantization": "nf4"})
    before = base.revision()
    policy = trained(base, conversations, tmp_path, config=config, lora=lora)
    layer = "base_model.model.model.layers.0"
    for packed in ("self_attn.q_proj.base_layer.weight", "mlp.experts.parametrizations.gate_up_proj.original"):
        assert str(seen[f"{layer}.{packed}"].dtype) == "torch.uint8"
    assert (logits(opened(base, policy)) - logits(opened(base))).abs().max() > 1e-3  # sampled on the base as it is
    assert base.revision() == before
    continued = trained(base, conversations, tmp_path / "2", "sage_x", policy, config, lora)
    assert continued.card.parent == "sage_w"
    with pytest.raises(ValueError, match=r"target_modules all-linear includes down_proj, .*name the layers, such as"):
        trained(base, conversations, tmp_path / "3", config=config, lora=LORA)


def test_quantization_without_bitsandbytes_is_an_error(base, conversations, tmp_path, monkeypatch):
    monkeypatch.setattr("sage_dialog.training.adapters.is_bitsandbytes_available", lambda: False)
    config = CONFIG.model_copy(update={"quantization": "nf4"})
    with pytest.raises(ValueError, match=r"quantization: nf4 needs bitsandbytes; pip install 'sage-dialog\[nf4\]'"):
        trained(base, conversations, tmp_path, config=config, lora=LORA)
