"""Keeps out of a run's log what torch's libraries say on every run."""

from __future__ import annotations

import warnings

# Message on every run by the libraries of these versions, about nothing this project can or should change.
_KNOWN_CHATTER = (
    # PEFT looks for the pattern among modules; a Mixtral's fused experts are parameters, and get its rank.
    "The following (rank|alpha)_pattern keys did not match",
    # `full_weights.prepare_full_adapter` ties them.
    "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter",
    "`is_gradient_checkpointing` is deprecated",
    ".*gradient_checkpointing.* is deprecated",
)


def quiet_libraries() -> None:
    """Drop the libraries' own bars and chatter, which a run's log does not need."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    quiet_warnings()


def quiet_warnings() -> None:
    """Drop the warnings alone; light, for who only loads policies."""
    for message in _KNOWN_CHATTER:
        warnings.filterwarnings("ignore", message=message)
