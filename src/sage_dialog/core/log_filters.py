"""Silence known warnings of third-party libraries."""

from __future__ import annotations

import warnings

# Logged on every run, about nothing that this project should change.
_KNOWN_WARNINGS = (
    # PEFT looks for the pattern among modules only; the fused experts of a Mixtral are parameters, and get the rank.
    "The following (rank|alpha)_pattern keys did not match",
    # `full_weights.prepare_full_adapter` ties them.
    "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",
    "`is_gradient_checkpointing` is deprecated",
    ".*gradient_checkpointing.* is deprecated",
    # torch 2.13 has no other product of eight-bit integers that is fast on a CPU.
    "torch.quantize_per_tensor, torch.quantize_per_channel and other quantized tensor creation functions",
)


def silence_libraries() -> None:
    """Turn off progress bars, and logs below errors, of datasets and transformers."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    silence_warnings()


def silence_warnings() -> None:
    """Ignore the known warnings; imports no library."""
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
