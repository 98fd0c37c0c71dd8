"""Names of the policies that the recipe makes, and the pairs of them that are compared."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from sage_dialog.core.hub_models import BASE

PLAIN = "sage_1_plain"
PREFERENCE = "sage_dpo"
REINFORCED = "sage_rl"

Arm = Literal["chain", "plain", "emotion", "action", "shuffled"]
"""What of the chain a training text holds: the whole; nothing; the user's emotion; the action block; another's."""

ABLATIONS: tuple[Arm, ...] = ("emotion", "action", "shuffled")
"""Arms beside those of `sage_1` and `sage_1_plain`; their policies are `sage_1_emotion` and so on."""

REFERENCE_POLICIES: tuple[str, ...] = (BASE, PLAIN, "sage_1")
"""`reference.policies` of conf/base."""


def policy_names(iterations: int, reinforced: bool = False) -> tuple[str, ...]:
    """Return all policies in the order of their training; self-play makes `sage_2` to `sage_{iterations + 1}`.

    Args:
        reinforced: with `sage_rl`, which is evaluated only where a pair names it.
    """
    names = (BASE, "sage_1", PLAIN, *(f"sage_{k + 1}" for k in range(1, iterations + 1)), PREFERENCE)
    return (*names, REINFORCED) if reinforced else names


def recipe_pairs(iterations: int) -> list[list[str]]:
    """Return each policy with the one that it continues, the ablation with `sage_1`, and the last with the base."""
    steps = [f"sage_{k}" for k in range(1, iterations + 2)] + [PREFERENCE]
    later = [list(pair) for pair in pairwise(steps)]
    return [[BASE, "sage_1"], [PLAIN, "sage_1"], *later, [BASE, PREFERENCE]]
