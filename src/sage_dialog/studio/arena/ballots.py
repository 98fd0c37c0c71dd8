"""Comparisons for a rater: blind, shuffled by seed, each policy equally often on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from sage_dialog.core.seeds import derived_seed, sample_ids
from sage_dialog.core.tables import DataFrame
from sage_dialog.dialogue import Message
from sage_dialog.evaluation.rollouts import dialogues_by_policy, same_situations
from sage_dialog.roles.protocols import Comparison
from sage_dialog.studio.arena.vote_file import ballot_id, digest


@dataclass(frozen=True)
class Ballot:
    """One comparison, and the policies of its first and second dialogue."""

    situation_id: str
    first: str
    second: str
    comparison: Comparison

    @cached_property
    def digests(self) -> tuple[str, str]:
        """Digests of the first and second dialogue."""
        return dialogue_digest(self.comparison.first), dialogue_digest(self.comparison.second)

    @cached_property
    def id(self) -> str:
        """Identify the two dialogues by their text, in either order, so that no rater judges them twice."""
        return ballot_id(self.situation_id, *zip((self.first, self.second), self.digests, strict=True))


def plan_ballots(
    rollouts: DataFrame, pairs: Sequence[tuple[str, str]], situations: int | None, rater: str, seed: int
) -> list[Ballot]:
    """Return the ballots of a rater in their order.

    Every rater gets the same situations in the same order, so that raters who stop early have judged the same ones, on
    which agreement is computed. Pairs alternate: after any number of votes, each pair has about equally many. The side
    of each policy is drawn for each rater; of every two situations of a pair, a policy is first in one.

    Args:
        rollouts: a table of `schemas.ROLLOUTS`.
        pairs: policies to compare; the order within a pair makes no difference.
        situations: number of situations for each pair, drawn by seed; None takes all.

    Raises:
        ValueError: naming a policy that is missing, or a situation that only one policy of a pair played.
    """
    dialogues = dialogues_by_policy(rollouts)
    rounds: dict[int, list[tuple[int, Ballot]]] = {}
    for pair in pairs:
        one, other = sorted(pair)
        drawn = sample_ids(same_situations(dialogues, one, other), situations, seed, "arena situations")
        ordered = sorted(drawn, key=partial(derived_seed, seed, "arena order", one, other))
        for place, situation in enumerate(ordered):
            coin = derived_seed(seed, "arena sides", rater, one, other, ordered[place - place % 2]) % 2
            first, second = (one, other) if coin == place % 2 else (other, one)
            comparison = Comparison(dialogues[first][situation], dialogues[second][situation])
            turn = derived_seed(seed, "arena turns", one, other, situation)
            rounds.setdefault(place, []).append((turn, Ballot(situation, first, second, comparison)))
    return [ballot for place in sorted(rounds) for _, ballot in sorted(rounds[place], key=lambda entry: entry[0])]


def dialogue_digest(dialogue: Sequence[Message]) -> str:
    """Return a digest of the roles and texts of a dialogue."""
    return digest([[message.role, message.text] for message in dialogue])
