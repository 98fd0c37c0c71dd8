"""Convert the base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.core.hub_models import BASE
from sage_dialog.core.policies import Policy, fresh_folder

if TYPE_CHECKING:
    from sage_dialog.training.gguf import GgufFile
else:
    GgufFile = Any  # Kedro resolves the signatures of nodes for every command


def convert_base(base_file: GgufFile, scratch: str) -> Policy:
    """Return the model of a GGUF file as a base of safetensors, with its origin and licence in its card."""
    from sage_dialog.training.gguf import convert_gguf

    return convert_gguf(base_file, Path(fresh_folder(scratch, BASE)))
