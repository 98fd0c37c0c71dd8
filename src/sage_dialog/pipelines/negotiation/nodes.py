"""Read the negotiations of Deal or No Deal."""

from __future__ import annotations

from pathlib import Path

from sage_dialog.config import Imagination
from sage_dialog.core.tables import DataFrame


def read_negotiations(dealornodeal: dict[str, Path], imagination: Imagination) -> tuple[DataFrame, DataFrame]:
    """Return the negotiations (schemas.NEGOTIATIONS) and the lines left out (schemas.NEGOTIATION_REJECTS)."""
    from sage_dialog.corpora import dealornodeal as reader

    return reader.read_negotiations(dealornodeal, imagination.max_reject_share)
