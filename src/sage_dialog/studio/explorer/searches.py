"""The situations of a search, found by what happened in them, and the tree of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from sage_dialog.core.tables import DataFrame
from sage_dialog.evaluation.dialogue_rows import candidate_row, search_row
from sage_dialog.studio.explorer.situations import NO_LABEL, RowsOf, labels_of, values_of

ANY_REASON = "any"
OF_CANDIDATES = {"motivation": "a_motivation", "emotion": "a_emotion"}
"""Filters on the plan of a candidate, with their columns."""


@dataclass(frozen=True)
class SearchFilter:
    """What is looked for: a situation is found if it fits, and one of its candidates fits all that is of candidates.

    Attributes:
        outcome: how the dialogue ended.
        label: the emotion of the situation.
        motivation: of the action block.
        emotion: of the action block.
        reason: why a candidate is invalid, a kind of `Search.reasons`, or `ANY_REASON`.
        chosen: whether that candidate was chosen.
        text: letters of the situation's id or opening, in any case.
    """

    outcome: str = ""
    label: str = ""
    motivation: str = ""
    emotion: str = ""
    reason: str = ""
    chosen: bool = False
    text: str = ""

    @property
    def of_candidates(self) -> bool:
        """Whether candidates are looked for."""
        return bool(self.motivation or self.emotion or self.reason or self.chosen)


class Search:
    """A search: its situations in the order of their ids, and their candidates.

    Args:
        trajectories: a table of `schemas.TRAJECTORIES`.
        candidates: a table of `schemas.CANDIDATES`.
        situations: a table of `schemas.SITUATIONS`, for their labels.
    """

    def __init__(self, trajectories: DataFrame, candidates: DataFrame, situations: DataFrame | None) -> None:
        self._labels = labels_of(situations)
        self._messages, self._sampled = RowsOf(trajectories), RowsOf(candidates)
        self._candidates = candidates.assign(kind=candidates["invalid_reason"].str.replace("(?s):.*", "", regex=True))
        self.situations = self._describe(trajectories)

    def _describe(self, trajectories: DataFrame) -> pd.DataFrame:
        first = trajectories.sort_values("turn", kind="stable").drop_duplicates("situation_id")
        ids = first["situation_id"].astype(object)
        counts = self._candidates.groupby("situation_id", sort=False)["valid"].agg(["size", "sum"])
        sizes = counts.reindex(ids)
        described = pd.DataFrame(
            {
                "id": ids.tolist(),
                "opening": first["text"].astype(object).tolist(),
                "outcome": first["outcome"].astype(object).tolist(),
                "label": [self._labels.get(each, NO_LABEL) for each in ids],
                "candidates": sizes["size"].fillna(0).astype(int).tolist(),
                "invalid": (sizes["size"].fillna(0) - sizes["sum"].fillna(0)).astype(int).tolist(),
            }
        )
        return described.sort_values("id", ignore_index=True)

    @property
    def choices(self) -> Mapping[str, list[str]]:
        """Values of each filter, frequent ones first."""
        columns = {"outcome": self.situations["outcome"], "label": self.situations["label"]}
        columns |= {name: self._candidates[column] for name, column in OF_CANDIDATES.items()}
        return {name: values_of(column) for name, column in (columns | {"reason": self._candidates["kind"]}).items()}

    def find(self, wanted: SearchFilter) -> pd.DataFrame:
        """Return the situations that fit, with the number of candidates that do in `found`."""
        found = self.situations
        for name in ("outcome", "label"):
            if value := getattr(wanted, name):
                found = found[found[name] == value]
        if wanted.text:
            letters = wanted.text.strip().lower()
            texts = (found["id"] + "\n" + found["opening"]).str.lower()
            found = found[texts.str.contains(letters, regex=False)]
        if not wanted.of_candidates:
            return found.assign(found=found["candidates"])
        fitting = self._candidates.loc[self._fits(wanted), "situation_id"].value_counts()
        counts = fitting.reindex(found["id"]).fillna(0).astype(int).tolist()
        found = found.assign(found=counts)
        return found[found["found"] > 0]

    def _fits(self, wanted: SearchFilter) -> pd.Series:
        rows = self._candidates
        fits = pd.Series(True, index=rows.index)
        for name, column in OF_CANDIDATES.items():
            if value := getattr(wanted, name):
                fits &= (rows[column] == value).fillna(False).astype(bool)
        if wanted.reason == ANY_REASON:
            fits &= ~rows["valid"].astype(bool)
        elif wanted.reason:
            fits &= (rows["kind"] == wanted.reason).fillna(False).astype(bool)
        return fits & rows["chosen"].astype(bool) if wanted.chosen else fits

    def tree(self, situation: str, wanted: SearchFilter | None = None) -> dict[str, Any]:
        """Return the dialogue of a situation, each turn of the agent with all its candidates.

        Each candidate has `fits`: whether a filter on candidates finds it. `left` has the candidates of a last turn in
        which none was chosen.

        Raises:
            LookupError: if the situation was not searched.
        """
        messages = self._messages.of(situation)
        if not messages:
            raise LookupError(f"{situation} is not in this search.")
        sampled = self._sampled.of(situation)
        tree = search_row(situation, messages, sampled, self._labels.get(situation, NO_LABEL))
        turns = {row["turn"] for row in messages}
        left = sorted((row for row in sampled if row["turn"] not in turns), key=lambda row: row["candidate"])
        tree["left"] = [candidate_row(row) for row in left]
        if wanted is not None and wanted.of_candidates:
            self._mark(tree, situation, wanted, sampled)
        return tree

    def _mark(self, tree: dict[str, Any], situation: str, wanted: SearchFilter, sampled: list[dict[str, Any]]) -> None:
        rows = self._candidates[self._fits(wanted)]
        rows = rows[rows["situation_id"] == situation]
        fitting = set(rows[["turn", "candidate"]].itertuples(index=False, name=None))
        turns = sorted({row["turn"] for row in self._messages.of(situation)})
        lists = [(number, turn["candidates"]) for number, turn in zip(turns, tree["turns"], strict=True)]
        lists += [(row["turn"], tree["left"]) for row in sampled if row["turn"] not in set(turns)][:1]
        for number, candidates in lists:
            for candidate in candidates:
                candidate["fits"] = (number, candidate["number"] - 1) in fitting
