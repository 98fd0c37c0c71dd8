"""A policy as others load it: a folder for plain transformers, PEFT and vLLM, of safetensors and text alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sage_dialog.config import SamplingConfig
from sage_dialog.core.hub_models import TOKENIZER_FILES, is_on_hub
from sage_dialog.core.log_filters import quiet_libraries
from sage_dialog.core.policies import CARD, Policy

CONFIG = "adapter_config.json"
BASE_FOLDER = "base"
"""Beside an adapter on a base of this machine, where that base lies."""


def export_policy(policy: Policy, base: Policy, sampling: SamplingConfig, merge: bool, out: Path, final: Path) -> None:
    """Fill `out`: one whole model where `merge` is true, else the adapter.

    The tokenizer, with its chat template, is the base's to the byte. The generation config samples as `sampling` says,
    as the policy was measured. An adapter names its base: one on a hub by name and commit; another is put into
    `base/` and named by that folder's place under `final`, the path that `out` will have.

    Raises:
        ValueError: if `policy` is no adapter on `base`, merging gives weights that are no numbers, or an adapter that
            holds all weights (full fine-tuning) is not to be merged.
    """
    if policy.card.kind != "adapter":
        raise ValueError(f"{policy.name} is a base, whole as it lies in {policy.path}; an adapter is exported")
    if policy.card.base_revision != base.card.base_revision:
        raise ValueError(
            f"{policy.name} at {policy.path} is an adapter on {policy.card.base} {policy.card.base_revision[:12]}, but "
            f"the base at {base.path} is {base.card.base_revision[:12]}"
        )
    if merge:
        _merge(policy, base, out)
    elif json.loads((policy.path / CONFIG).read_text()).get("modules_to_save"):
        raise ValueError("it holds all weights of its base anew (sft.lora: null); give --merge, for a model by itself")
    else:
        for file in ("adapter_model.safetensors", CONFIG):
            shutil.copyfile(policy.path / file, out / file)
        beside = None if is_on_hub(base.card) else final / BASE_FOLDER
        if beside:
            shutil.copytree(base.path, out / BASE_FOLDER, ignore=shutil.ignore_patterns(CARD))
        _name_base(out / CONFIG, base, beside)
    for pattern in TOKENIZER_FILES:
        for found in base.path.glob(pattern):
            shutil.copyfile(found, out / found.name)
    _generation_config(base, sampling, out)
    for weights in out.rglob("*.safetensors"):
        shutil.copymode(out / "generation_config.json", weights)  # safetensors lets its own user alone read them


def _merge(policy: Policy, base: Policy, out: Path) -> None:
    """The adapter worked into the weights, in the type that the base has on disk."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype="auto", use_safetensors=True)
    merged = PeftModel.from_pretrained(model, policy.path).merge_and_unload(safe_merge=True)
    merged.save_pretrained(out)


def _name_base(config: Path, base: Policy, beside: Path | None) -> None:
    said = json.loads(config.read_text())
    said["base_model_name_or_path"] = str(beside) if beside else base.card.base
    said["revision"] = None if beside else base.card.base_revision
    config.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")


def _generation_config(base: Policy, sampling: SamplingConfig, out: Path) -> None:
    from transformers import AutoConfig, GenerationConfig

    if (base.path / "generation_config.json").is_file():
        config = GenerationConfig.from_pretrained(base.path)
    else:
        config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(base.path))
    config.update(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=1.0,
        repetition_penalty=sampling.repetition_penalty,
        max_new_tokens=sampling.max_new_tokens,
    )
    config.save_pretrained(out)
