"""Full fine-tuning: an adapter that holds all weights of the base anew.

To all that takes adapters such a policy is one: it is played beside others on one base, goes on, is its own reference
in preference learning, and merges into a whole model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def full_adapter(model: PreTrainedModel) -> PeftModel:
    """All weights of `model` in an adapter, whose name is "default"; they are still what they were."""
    from peft import LoraConfig, get_peft_model
    from peft.utils.constants import DUMMY_TARGET_MODULES

    named = ((name.rpartition(".")[2], module) for name, module in model.named_modules())
    with_weights = {name for name, module in named if [*module.parameters(recurse=False)]}
    if model.config.tie_word_embeddings:
        with_weights.add(_name_of(model, model.get_output_embeddings()))
    config = LoraConfig(
        target_modules=DUMMY_TARGET_MODULES, modules_to_save=sorted(with_weights), task_type="CAUSAL_LM"
    )
    return trainable(get_peft_model(model, config))


def trainable(adapter: PeftModel) -> PeftModel:
    """A full adapter as it is trained; one of LoRA as it is.

    In fp32, since small updates are lost on weights in bf16 (of LoRA's, PEFT sees to it); and with output embeddings
    that are the input's where they are so in the base. (PEFT's own `ensure_weight_tying` ties only the first adapter.)
    """
    if not is_full(adapter):
        return adapter
    for weight in adapter.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    model = adapter.get_base_model()
    if model.config.tie_word_embeddings:
        inner, outer = model.get_input_embeddings(), model.get_output_embeddings()
        outer.modules_to_save["default"].weight = inner.modules_to_save["default"].weight
    return adapter


def whole_reference(model: PeftModel) -> None:
    """Give TRL's reference, the adapter "ref", all weights of "default", of which TRL leaves out tied ones."""
    if not is_full(model):
        return
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, weight in weights.items():
        if ".default." in name:
            weights[name.replace(".default.", ".ref.")].data = weight.data.clone()


def is_full(adapter: PeftModel) -> bool:
    return bool(adapter.peft_config["default"].modules_to_save)


def _name_of(model: PreTrainedModel, wanted: object) -> str:
    return next(name.rpartition(".")[2] for name, module in model.named_modules() if module is wanted)
