"""What a person is asked, and in which order: blind, shuffled by seed, both sides equally often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from sage_dialog.core.seeds import derived_seed, sample_ids
from sage_dialog.dialogue import Message
from sage_dialog.evaluation.rollouts import same_situations, whole_dialogues
from sage_dialog.roles.protocols import Comparison
from sage_dialog.studio.arena.vote_file import ballot_id, digest

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Ballot:
    """One comparison that a person is asked for, and the policies whose dialogues it shows first and second."""

    situation_id: str
    first: str
    second: str
    shown: Comparison

    @cached_property
    def digests(self) -> tuple[str, str]:
        """Of the dialogues shown first and second."""
        return dialogue_digest(self.shown.first), dialogue_digest(self.shown.second)

    @cached_property
    def id(self) -> str:
        """By every word of the two dialogues, whichever is first: nobody is asked about the same two again."""
        return ballot_id(self.situation_id, *zip((self.first, self.second), self.digests, strict=True))


def plan_ballots(
    rollouts: Mapping[str, pa.Table], pairs: Sequence[tuple[str, str]], situations: int | None, rater: str, seed: int
) -> list[Ballot]:
    """All that a rater is to be asked, in this order.

    Every rater gets the same situations in the same order, so that those who stop early have judged the same ones,
    which is what agreement is counted on. Pairs take turns: whenever somebody stops, each pair has about as many votes.
    Who stands first is drawn for each rater; of every two situations of a pair one policy is first in one of them.

    Args:
        rollouts: tables of `schemas.TRAJECTORIES` by policy, all on the same situations.
        pairs: policies to compare; their order within a pair makes no difference.
        situations: how many of each pair, drawn by seed; None takes all.
        rater: whose sides are drawn.
        seed: the run's.

    Raises:
        ValueError: naming a policy that is missing, or a situation that only one of a pair played.
    """
    dialogues = {policy: whole_dialogues(rollouts[policy]) for pair in pairs for policy in pair if policy in rollouts}
    rounds: dict[int, list[tuple[int, Ballot]]] = {}
    for pair in pairs:
        one, other = sorted(pair)
        drawn = sample_ids(same_situations(rollouts, one, other), situations, seed, "arena situations")
        ordered = sorted(drawn, key=partial(derived_seed, seed, "arena order", one, other))
        for place, situation in enumerate(ordered):
            coin = derived_seed(seed, "arena sides", rater, one, other, ordered[place - place % 2]) % 2
            first, second = (one, other) if coin == place % 2 else (other, one)
            shown = Comparison(dialogues[first][situation], dialogues[second][situation])
            turn = derived_seed(seed, "arena turns", one, other, situation)
            rounds.setdefault(place, []).append((turn, Ballot(situation, first, second, shown)))
    return [ballot for place in sorted(rounds) for _, ballot in sorted(rounds[place], key=lambda entry: entry[0])]


def dialogue_digest(dialogue: Sequence[Message]) -> str:
    """A name of a dialogue by who says what in it."""
    return digest([[said.role, said.text] for said in dialogue])
