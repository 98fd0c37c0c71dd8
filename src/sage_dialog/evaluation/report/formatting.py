"""Numbers and rows as the report shows them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sage_dialog.config import OutcomeRule
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.judging.people import is_human

OUTCOME_RULES: dict[OutcomeRule, str] = {
    "agreement": "a policy wins where both orders name it; all else is a tie",
    "half": "each order counts half, and the policy with more of it wins; all else is a tie",
    "first_order": "only the order in which a comes first counts here",
}


def group_rows(table: DataFrame, column: str) -> dict[Any, list[dict[str, Any]]]:
    """Return the rows of a table by the value of a column, in order of appearance."""
    return {value: to_rows(rows) for value, rows in table.groupby(column, sort=False)}


def index_rows(table: DataFrame, by: str | list[str], column: str) -> dict[Any, dict[Any, dict[str, Any]]]:
    """Return the row of each group and value of a column, which names it within the group."""
    return {group: {row[column]: row for row in to_rows(rows)} for group, rows in table.groupby(by, sort=False)}


def answers(judge: str) -> str:
    """Return a mark for judges that are people, who answer once where others answer in both orders."""
    return " (one answer each)" if is_human(judge) else ""


def percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:z.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float, digits: int = 1) -> str:
    return f"{value:z.{digits}f}" if math.isfinite(value) else "–"


def thousands(number: int) -> str:
    return f"{number:,}"


def p_value(p: float) -> str:
    """Return two significant digits: 0.27, 6.5e-04, 1; "<" and the least float for what a float cannot hold."""
    if p < sys.float_info.min:
        return f"<{sys.float_info.min:.0e}"
    return "1" if p > 0.995 else f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def times(factor: float) -> str:
    """Return two significant digits: ×1.8, ×0.0052, ×24; more than a thousand without digits."""
    return "over ×1,000" if factor > 1000 else f"×{factor:.2g}" if factor < 10 else f"×{factor:.0f}"


def against_average(score: float) -> float:
    """Return the share of points that a policy of this score (log-odds) takes from one of average score."""
    return 1 / (1 + math.exp(-score))


def span(interval: Sequence[float]) -> dict[str, float]:
    """Return the positions of low, value and high on a line from 0 to 1, in percent."""
    low, value, high = (100 * min(1.0, max(0.0, place)) for place in interval)
    return {"left": round(low, 2), "width": round(high - low, 2), "value": round(value, 2)}


def shares(counts: Sequence[int]) -> list[dict[str, float]]:
    """Return the left end and the width of each count's part of a bar, in percent."""
    total, done, parts = sum(counts) or 1, 0, []
    for count in counts:
        parts.append({"left": round(100 * done / total, 2), "width": round(100 * count / total, 2)})
        done += count
    return parts


def with_interval(row: Mapping[str, Any], value: str = "value", low: str = "low", high: str = "high") -> str:
    """Return a text such as "98 % (97 to 99 %)" from the named columns of a row."""
    return f"{percent(row[value])} ({100 * row[low]:.0f} to {percent(row[high])})"
