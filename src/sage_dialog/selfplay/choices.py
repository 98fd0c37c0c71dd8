"""What a selector's choices say of candidates and dialogues: it names the best of a turn and gives no marks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

Candidate = Mapping[str, Any]
"""A row of schemas.CANDIDATES."""

_COLUMNS = ["situation_id", "turn", "text", "utterance", "a_motivation", "a_emotion", "chosen", "valid"]
_ACTION = ("a_motivation", "a_emotion")
_Part = tuple[str, str | None]


class Choices:
    """All choices of a search, as its CANDIDATES have them."""

    def __init__(self, candidates: pa.Table) -> None:
        self._chosen: Counter[_Part] = Counter()
        self._by_chance: defaultdict[_Part, float] = defaultdict(float)
        turns: dict[str, list[tuple[int, Candidate | None]]] = {}
        for (situation_id, _), drawn in group_by_turn(candidates):
            chosen = next((candidate for candidate in drawn if candidate["chosen"]), None)
            turns.setdefault(situation_id, []).append((len(drawn), chosen))
            if chosen is None:
                continue
            shown = {candidate["utterance"].strip(): candidate for candidate in drawn if candidate["valid"]}
            shown[chosen["utterance"].strip()] = chosen
            for candidate in shown.values():
                for key in _action(candidate):
                    self._by_chance[key] += 1 / len(shown)
            self._chosen.update(_action(chosen))
        self._turns = turns

    def action_preference(self, candidate: Candidate) -> float:
        """How often the selector chose candidates with this motivation, and with this emotion, against chance.

        1 is as often as if it had drawn, 2 twice as often; the two are multiplied. Each count has one more on both
        sides, so that an action that was seldom shown is near 1. Without blocks there is no action, and all have 1.
        """
        product = 1.0
        for key in _action(candidate):
            product *= (self._chosen[key] + 1) / (self._by_chance.get(key, 0.0) + 1)
        return product

    def dialogue_score(self, situation_id: str) -> tuple[float, float]:
        """How well a dialogue was judged; larger is better, and the second number decides where the first is equal.

        The choices made for each candidate drawn, which is less where none was good and others were drawn, or the
        dialogue ended for want of one; and the mean action_preference of what the agent said. (0, 0) where it was never chosen.
        """
        turns = self._turns.get(situation_id, [])
        said = [chosen for _, chosen in turns if chosen is not None]
        if not said:
            return 0.0, 0.0
        return len(said) / sum(drawn for drawn, _ in turns), sum(map(self.action_preference, said)) / len(said)


def group_by_turn(candidates: pa.Table) -> Iterator[tuple[tuple[str, int], Sequence[Candidate]]]:
    """The candidates of each agent turn, whose rows stand together, as the search wrote them."""
    batches = candidates.select(_COLUMNS).to_batches(max_chunksize=4096)
    rows = (row for batch in batches for row in batch.to_pylist())
    for turn, group in groupby(rows, key=lambda row: (row["situation_id"], row["turn"])):
        yield turn, list(group)


def _action(candidate: Candidate) -> list[_Part]:
    if all(candidate[field] is None for field in _ACTION):
        return []
    return [(field, candidate[field]) for field in _ACTION]
