"""Full fine-tuning: an adapter that holds a trained copy of all weights of the base.

Everything that takes adapters takes these too: several on one base, further training, the reference model of preference
tuning, merging.
"""

from __future__ import annotations

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import PreTrainedModel


def full_adapter(model: PreTrainedModel) -> PeftModel:
    """Return an adapter, named "default", with an unchanged copy of all weights of `model`."""
    named_modules = [(name.rpartition(".")[2], module) for name, module in model.named_modules()]
    names = {name for name, module in named_modules if [*module.parameters(recurse=False)]}
    if model.config.tie_word_embeddings:
        names |= {name for name, module in named_modules if module is model.get_output_embeddings()}
    config = LoraConfig(target_modules=DUMMY_TARGET_MODULES, modules_to_save=sorted(names), task_type="CAUSAL_LM")
    return prepare_full_adapter(get_peft_model(model, config))


def prepare_full_adapter(adapter: PeftModel) -> PeftModel:
    """Return a full adapter ready for training: in fp32, embeddings tied as in the base. LoRA adapters are unchanged.

    Small updates are lost on weights in bf16; PEFT sees to this for LoRA only, and its `ensure_weight_tying` ties the
    first adapter only.
    """
    if not is_full(adapter):
        return adapter
    for weight in adapter.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    model = adapter.get_base_model()
    if model.config.tie_word_embeddings:
        inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
        outputs.modules_to_save["default"].weight = inputs.modules_to_save["default"].weight
    return adapter


def copy_to_reference(model: PeftModel) -> None:
    """Copy all weights of a full adapter to TRL's reference, the adapter "ref"; TRL omits tied weights."""
    if not is_full(model):
        return
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in weights.items():
        if ".default." in name:
            weights[name.replace(".default.", ".ref.")].data = weight.data.clone()


def is_full(adapter: PeftModel) -> bool:
    return bool(adapter.peft_config["default"].modules_to_save)
