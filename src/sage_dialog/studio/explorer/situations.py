"""What searches and rollouts share: labels of situations, pages of them, and the rows of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sage_dialog.core.tables import DataFrame, to_rows

ON_PAGE = 25
"""Situations on a page."""
NO_LABEL = "no label"


def labels_of(situations: DataFrame | None) -> dict[str, str]:
    """Return the emotions by situation of a table of `schemas.SITUATIONS`."""
    if situations is None:
        return {}
    return dict(situations[["situation_id", "emotion"]].itertuples(index=False, name=None))


def values_of(column: pd.Series) -> list[str]:
    """Return the different values of a column, frequent ones first, then by name; without null."""
    counts = column.value_counts()
    return [str(value) for _, value in sorted(zip(-counts, counts.index, strict=True))]


def page_of(found: pd.DataFrame, number: int) -> dict[str, Any]:
    """Return the rows of a page, counted from 1, with its number, the number of pages, and that of all rows."""
    pages = max(1, -(-len(found) // ON_PAGE))
    number = min(max(number, 1), pages)
    rows = found.iloc[(number - 1) * ON_PAGE : number * ON_PAGE]
    return {"rows": to_rows(rows), "page": number, "pages": pages, "total": len(found)}


class RowsOf:
    """The rows of each situation of a table, which stays as it is in memory."""

    def __init__(self, table: DataFrame) -> None:
        codes, self._ids = pd.factorize(table["situation_id"].astype(object))
        order = np.argsort(codes, kind="stable")
        self._table = table.iloc[order]
        self._edges = np.searchsorted(codes[order], range(len(self._ids) + 1))
        self._places = {str(situation): place for place, situation in enumerate(self._ids)}

    def of(self, situation: str) -> list[dict[str, Any]]:
        """Return the rows of a situation; none where it is not in the table."""
        place = self._places.get(situation)
        if place is None:
            return []
        return to_rows(self._table.iloc[self._edges[place] : self._edges[place + 1]])
