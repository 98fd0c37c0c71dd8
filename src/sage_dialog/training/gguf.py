"""A base model from a GGUF file, in an installed Python package or anywhere: converted once to safetensors.

The weights are dequantised to float32. transformers reads the file with the package `gguf`, and refuses to save what it
read until the quantisation is taken out of the configuration.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sage_dialog.core.hub_models import BASE
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.training.chat_templates import training_format

_UNREADABLE = (ValueError, KeyError, RuntimeError)
"""What transformers raises for a GGUF file that it cannot read: an architecture, a tokenizer or a key unknown to it."""


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file and where it comes from.

    Attributes:
        distribution: the installed Python distribution that holds it; None for a file of the user's.
    """

    path: Path
    distribution: str | None = None


def convert_gguf(source: GgufFile, out: Path) -> Policy:
    """Write the model and the tokenizer of a GGUF file to a folder that plain transformers opens, with a card.

    Raises:
        ValueError: naming the file, if it is truncated or no GGUF, if its architecture or a type of its tensors is not
            supported, or if no policy can be trained on its chat template.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{source.path} is read by the package gguf, which is not installed: pip install '.[gguf]'")
    header = _read_header(source.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path.parent, gguf_file=source.path.name)
    except _UNREADABLE as error:
        raise ValueError(f"{source.path} has a tokenizer that transformers cannot read: {error}") from error
    tokenizer.name_or_path = str(source.path)
    training_format(tokenizer)
    try:
        read = AutoModelForCausalLM.from_pretrained(source.path.parent, gguf_file=source.path.name, dtype=torch.float32)
    except _UNREADABLE as error:
        raise ValueError(f"{source.path} cannot be converted: {error}. {_remedy(header)}") from error
    config = read.config
    del config.quantization_config
    model = type(read)(config)
    weights = read.state_dict()
    # transformers ties a head while it loads by a patch that a model loaded in another thread can leave undone.
    tied = read.get_expanded_tied_weights_keys(all_submodels=True)
    model.load_state_dict(weights | {head: weights[embedding] for head, embedding in tied.items()})
    model.generation_config = read.generation_config
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return Policy.write_card(
        out,
        PolicyCard(
            *(BASE, "base", False, source.path.stem, weights_revision(out)),
            origin=_origin(source),
            licence=_licence(source, header),
        ),
    )


def _read_header(path: Path) -> dict[str, Any]:
    """Return the metadata of a GGUF file, once all of its tensors are there and of types that can be read."""
    from gguf import GGUFReader
    from gguf.quants import _type_traits  # gguf names the types that it dequantises nowhere else

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file: it does not begin with GGUF")
    try:
        reader = GGUFReader(path)
    except Exception as error:  # of numpy, struct, unicode: it reads without checks
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} cannot be read: it is truncated, or of a GGML type that this gguf does not know ({why}). Fetch it "
            "again, or update gguf."
        ) from error
    plain = {"F32", "F16", "F64", "I8", "I16", "I32", "I64"}
    unknown = Counter(
        tensor.tensor_type.name
        for tensor in reader.tensors
        if tensor.tensor_type not in _type_traits and tensor.tensor_type.name not in plain
    )
    if unknown:
        types = ", ".join(f"{count} tensors of type {name}" for name, count in unknown.most_common())
        raise ValueError(f"{path} has {types}, which gguf cannot dequantise. {_remedy({})}")
    end = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=0)
    if (size := path.stat().st_size) < end:
        raise ValueError(f"{path} is truncated: {size:,} of {end:,} bytes. Fetch it again.")
    short = ("general.architecture", "general.license")
    return {name: field.contents() for name in short if (field := reader.fields.get(name)) is not None}


def _remedy(header: dict[str, Any]) -> str:
    architecture = f" (architecture {header['general.architecture']})" if header.get("general.architecture") else ""
    return f"Take a file in Q8_0, Q4_0, Q4_1 or F16 of a model that transformers reads from GGUF{architecture}."


def _origin(source: GgufFile) -> str:
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    named = f"{source.path.name}, sha256 {digest}"
    if source.distribution is None:
        return named
    package = metadata(source.distribution)
    return f"{package['Name']} {package['Version']}: {named}"


def _licence(source: GgufFile, header: dict[str, Any]) -> str | None:
    """Return the licence in the file, or else that of its distribution."""
    if licence := header.get("general.license"):
        return str(licence)
    if source.distribution is None:
        return None
    try:
        package = metadata(source.distribution)
    except PackageNotFoundError:
        return None
    return next((package[name] for name in ("License-Expression", "License") if name in package), None)
