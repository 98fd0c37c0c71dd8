"""Seeds and generators keyed by (run seed, purpose, item id).

Equal inputs give equal rows in any order of work and in any batch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derived_seed(seed: int, purpose: str, *item: object) -> int:
    """Return a 64-bit seed for a purpose and item; ("a", "bc") and ("ab", "c") differ."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, purpose, *item):
        encoded = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int, purpose: str, *item: object) -> np.random.Generator:
    """Return a NumPy generator for a purpose and item."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(derived_seed(seed, purpose, *item)))


def seed_label(name: str) -> str:
    """Return the label that seeds draws from a source of the training mix, or for a conversation of one.

    The source "speaker" has the label "sharer", its name in earlier versions, so that equal seeds keep equal draws.
    """
    return "sharer" + name.removeprefix("speaker") if name == "speaker" or name.startswith("speaker:") else name


def sample_ids(ids: list[str], size: int | None, seed: int, purpose: str) -> list[str]:
    """Return `size` of the ids in their given order, chosen by seed and id alone; all where size is None."""
    if size is None or size >= len(ids):
        return list(ids)
    chosen = set(sorted(ids, key=lambda item: derived_seed(seed, purpose, item))[:size])
    return [item for item in ids if item in chosen]
