"""Samples that have written the same so far, computed once.

The blocks of a policy have few likely values: of the 16 samples of a turn many begin alike, and as long as they do,
they need the same logits. Their texts form a tree. Only its leaves are computed, and a leaf whose rows draw different
tokens becomes several.
"""

from __future__ import annotations

import torch


def branch(
    text: torch.Tensor, token: torch.Tensor, texts: int, idle: int, compact_below: float
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return the texts after each row's new token.

    The first continuation of a text takes its place. Others take places that no row continues, or new ones at the end,
    so that few texts have to be copied.

    Args:
        text: (rows,), the text that each row continues.
        token: (rows,), the token that it appends.
        texts: number of texts.
        idle: the token of texts that no row continues.
        compact_below: share of continued texts below which the others are dropped.

    Returns:
        The new text of each row (rows,), then for each new text the one that it continues, None where all keep their
        places, and its token.
    """
    size = int(token.max()) + 1
    pairs, new = torch.unique(text * size + token, return_inverse=True)
    parent, last = pairs // size, pairs % size
    if len(pairs) < compact_below * texts:
        return new, parent, last
    device = token.device
    first = torch.ones(len(pairs), dtype=torch.bool, device=device)
    first[1:] = parent[1:] != parent[:-1]
    further = int((~first).sum())
    is_free = torch.ones(texts + further, dtype=torch.bool, device=device)
    is_free[parent] = False
    place = parent.clone()
    place[~first] = is_free.nonzero().flatten()[:further]
    after = max(texts, int(place.max()) + 1)
    tokens = torch.full((after,), idle, device=device)
    tokens[place] = last
    if not further:
        return place[new], None, tokens
    sources = torch.arange(after, device=device)
    sources[place] = parent
    return place[new], sources, tokens
