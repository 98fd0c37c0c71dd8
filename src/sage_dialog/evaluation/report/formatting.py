"""Numbers as the report shows them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:z.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float, digits: int = 1) -> str:
    return f"{value:z.{digits}f}" if math.isfinite(value) else "–"


def thousands(number: int) -> str:
    return f"{number:,}"


def p_value(p: float) -> str:
    """Two significant digits: 0.27, 6.5e-04, 1; what a floating-point number cannot hold is below its least."""
    if p < sys.float_info.min:
        return f"<{sys.float_info.min:.0e}"
    return "1" if p > 0.995 else f"{p:.2g}" if p >= 1e-3 else f"{p:.1e}"


def times(factor: float) -> str:
    """Two significant digits: ×1.8, ×0.0052, ×24; more than a thousand is only that."""
    return "over ×1,000" if factor > 1000 else f"×{factor:.2g}" if factor < 10 else f"×{factor:.0f}"


def against_average(score: float) -> float:
    """The share of points that a policy of this score (log-odds) takes from one of average score."""
    return 1 / (1 + math.exp(-score))


def span(interval: Sequence[float]) -> dict[str, float]:
    """Where low, value and high stand on a line from 0 to 1, in percent."""
    low, value, high = (100 * min(1.0, max(0.0, place)) for place in interval)
    return {"left": round(low, 2), "width": round(high - low, 2), "value": round(value, 2)}


def shares(counts: Sequence[int]) -> list[dict[str, float]]:
    """Where each count's part of a bar begins and how wide it is, in percent; a count of none has no width."""
    total, done, parts = sum(counts) or 1, 0, []
    for count in counts:
        parts.append({"left": round(100 * done / total, 2), "width": round(100 * count / total, 2)})
        done += count
    return parts


def with_interval(row: Mapping[str, Any], value: str = "value", low: str = "low", high: str = "high") -> str:
    """Such as "98 % (97 to 99 %)", from the named columns of a table's row."""
    return f"{percent(row[value])} ({100 * row[low]:.0f} to {percent(row[high])})"
