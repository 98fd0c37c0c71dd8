"""How many lines, comments and paths each rule took, month by month."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from sage_dialog.corpora.reddit.rules import Rule, unit
from sage_dialog.schemas import FILTER_REPORT


def filter_report(lines: Mapping[str, int], removed: Mapping[tuple[str, Rule], int]) -> pa.Table:
    """A table of `schemas.FILTER_REPORT`, by month and step; step counts from 1 through all units.

    What comes in at a rule is what came in at the rule before, less what that one removed. So a month's lines are
    explained whole: what is left behind the last rule are its dialogues.

    Args:
        lines: the lines of each month's dumps.
        removed: what each rule took of them, by month and rule.
    """
    rows = []
    for month in sorted(lines):
        n_in = lines[month]
        for step, rule in enumerate(Rule, start=1):
            taken = removed.get((month, rule), 0)
            row = {"month": month, "step": step, "rule": rule.value, "unit": unit(rule)}
            rows.append(row | {"n_in": n_in, "n_removed": taken})
            n_in -= taken
    return pa.Table.from_pylist(rows, schema=FILTER_REPORT)
