"""Scores of actions and dialogues from a selector's choices, which name the best candidate of a turn without marks."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from sage_dialog.core.tables import DataFrame, to_arrow

Candidate = Mapping[str, Any]
"""A row of schemas.CANDIDATES."""

_COLUMNS = ["situation_id", "turn", "text", "utterance", "a_motivation", "a_emotion", "chosen", "valid"]
_ACTION_FIELDS = ("a_motivation", "a_emotion")
_ActionPart = tuple[str, str | None]


class Choices:
    """All choices of a search.

    Args:
        candidates: schemas.CANDIDATES.
    """

    def __init__(self, candidates: DataFrame) -> None:
        self._chosen: Counter[_ActionPart] = Counter()
        self._expected: defaultdict[_ActionPart, float] = defaultdict(float)
        self._turns: dict[str, list[tuple[int, Candidate | None]]] = {}
        for (situation_id, _), drawn in group_by_turn(candidates):
            chosen = next((candidate for candidate in drawn if candidate["chosen"]), None)
            self._turns.setdefault(situation_id, []).append((len(drawn), chosen))
            if chosen is None:
                continue
            offered = {candidate["utterance"].strip(): candidate for candidate in drawn if candidate["valid"]}
            offered[chosen["utterance"].strip()] = chosen
            for candidate in offered.values():
                for part in _action(candidate):
                    self._expected[part] += 1 / len(offered)
            self._chosen.update(_action(chosen))

    def action_preference(self, candidate: Candidate) -> float:
        """Return how often the selector chose this motivation and this emotion, relative to chance.

        1 is as often as a random choice, 2 twice as often; the values of motivation and emotion are multiplied. One is
        added to both counts, so a rare action is near 1. A candidate without blocks has 1.
        """
        ratios = ((self._chosen[part] + 1) / (self._expected.get(part, 0.0) + 1) for part in _action(candidate))
        return math.prod(ratios, start=1.0)

    def dialogue_score(self, situation_id: str) -> tuple[float, float]:
        """Return the score of a dialogue; larger is better, and the second number breaks ties.

        The first is the number of choices per candidate drawn: redraws, and a dialogue that ended without a good
        candidate, lower it. The second is the mean action preference of the chosen candidates. (0, 0) without choices.
        """
        turns = self._turns.get(situation_id, [])
        chosen = [candidate for _, candidate in turns if candidate is not None]
        if not chosen:
            return 0.0, 0.0
        return len(chosen) / sum(drawn for drawn, _ in turns), sum(map(self.action_preference, chosen)) / len(chosen)


def group_by_turn(candidates: DataFrame) -> Iterator[tuple[tuple[str, int], Sequence[Candidate]]]:
    """Yield the candidates of each agent turn, in the order of the search."""
    batches = to_arrow(candidates[_COLUMNS]).to_batches(max_chunksize=4096)  # so that few rows are in memory as Python
    rows = (row for batch in batches for row in batch.to_pylist())
    for turn, group in groupby(rows, key=lambda row: (row["situation_id"], row["turn"])):
        yield turn, list(group)


def _action(candidate: Candidate) -> list[_ActionPart]:
    action = [(field, candidate[field]) for field in _ACTION_FIELDS]
    return action if any(label is not None for _, label in action) else []
