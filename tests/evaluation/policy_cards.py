"""Cards of fabricated policies."""

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, from_rows


def cards_of(**policies: bool) -> DataFrame:
    """Return a table of POLICIES from whether each policy writes blocks."""
    cards = [
        {
            "policy": policy,
            "kind": "adapter" if blocks else "base",
            "blocks": blocks,
            "revision": "0123456789abcdef" * 4,
            "base": "sage_0",
            "base_revision": "fedcba9876543210" * 4,
            "parent": "sage_0" if blocks else None,
            "parent_revision": None,
        }
        for policy, blocks in policies.items()
    ]
    return from_rows(cards, schemas.POLICIES)
