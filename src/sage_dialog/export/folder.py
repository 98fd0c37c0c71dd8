"""Export of a policy to a folder for transformers, PEFT and vLLM: safetensors and text files only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sage_dialog.config import SamplingConfig
from sage_dialog.core.hub_models import TOKENIZER_FILES, is_on_hub
from sage_dialog.core.log_filters import silence_libraries
from sage_dialog.core.policies import CARD, Policy

CONFIG = "adapter_config.json"
BASE_FOLDER = "base"
"""The folder of the base, in the folder of an adapter on a base of this machine."""


def export_policy(policy: Policy, base: Policy, sampling: SamplingConfig, merge: bool, out: Path, final: Path) -> None:
    """Write a policy to the folder `out`: a complete model if `merge` is true, else the adapter.

    The tokenizer with its chat template is a copy of the base's. The adapter config names the base: one on a hub by
    name and commit; any other is copied to `base/` and named by its path.

    Args:
        sampling: the sampling of the evaluation, for the generation config.
        final: the path that `out` is renamed to.

    Raises:
        ValueError: if `policy` is not an adapter on `base`, if merged weights are not finite, or if an adapter with
            all weights (full fine-tuning) is exported without `merge`.
    """
    if policy.card.kind != "adapter":
        raise ValueError(f"{policy.name} is a base, complete in {policy.path}; only adapters are exported")
    if policy.card.base_revision != base.card.base_revision:
        raise ValueError(
            f"{policy.name} at {policy.path} is an adapter on {policy.card.base} {policy.card.base_revision[:12]}, but "
            f"the base at {base.path} is {base.card.base_revision[:12]}"
        )
    if merge:
        _merge(policy, base, out)
    elif policy.has_full_weights:
        raise ValueError("it has all weights (sft.lora: null); give --merge, for a complete model")
    else:
        for file in ("adapter_model.safetensors", CONFIG):
            shutil.copyfile(policy.path / file, out / file)
        base_folder = None if is_on_hub(base.card) else final / BASE_FOLDER
        if base_folder:
            shutil.copytree(base.path, out / BASE_FOLDER, ignore=shutil.ignore_patterns(CARD))
        config = json.loads((out / CONFIG).read_text())
        config["base_model_name_or_path"] = str(base_folder) if base_folder else base.card.base
        config["revision"] = None if base_folder else base.card.base_revision
        (out / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for pattern in TOKENIZER_FILES:
        for found in base.path.glob(pattern):
            shutil.copyfile(found, out / found.name)
    _generation_config(base, sampling, out)
    for weights in out.rglob("*.safetensors"):
        shutil.copymode(out / "generation_config.json", weights)  # safetensors makes them readable by their owner only


def _merge(policy: Policy, base: Policy, out: Path) -> None:
    """Write the base with the adapter merged in, in the number format of the base."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    silence_libraries()
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype="auto", use_safetensors=True)
    merged = PeftModel.from_pretrained(model, policy.path).merge_and_unload(safe_merge=True)
    merged.save_pretrained(out)


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
