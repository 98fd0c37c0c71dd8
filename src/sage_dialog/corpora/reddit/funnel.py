"""The filter report for readers: sums over months, and warnings about what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sage_dialog.core.tables import DataFrame
from sage_dialog.corpora.reddit.rules import Rule

# A rule that removes a larger share of at least so many lines, comments or paths is worth a warning.
_REMOVED_SHARE, _MIN_REACHED = 0.9, 1_000
_MIN_LINES, _FEW_DIALOGUES = 100_000, 100
_MAX_MONTHS = 6  # in a warning
_MEANINGS = {rule.value: rule.meaning for rule in Rule}
_NO_LOSS = (Rule.SUBMISSION, Rule.NOT_A_LEAF)  # what they remove is read as a thread, or stands inside a path


class Step(NamedTuple):
    """One rule over all months: `n_removed` of `n_in` lines, comments or paths (`unit`)."""

    rule: str
    unit: str
    n_in: int
    n_removed: int

    @property
    def left(self) -> int:
        return self.n_in - self.n_removed

    @property
    def description(self) -> str:
        """What the rule removes; of a rule of an earlier version only the unit."""
        return f"{self.unit}s {_MEANINGS.get(self.rule, '')}".rstrip()

    @property
    def share(self) -> str:
        """The removed share; only exact shares are written as 0 or 100 %."""
        percent = 100 * self.n_removed / self.n_in
        return "100 %" if not self.left else "<0.1 %" if percent < 0.1 else f"{min(percent, 99.9):.1f} %"


class Month(NamedTuple):
    """Counts of one month. A path, and with it a dialogue, belongs to the month of its last comment."""

    month: str
    lines: int
    comments: int
    paths: int
    dialogues: int


def steps(filter_report: DataFrame) -> list[Step]:
    """Return the rules in their order, summed over months, from a table of `schemas.FILTER_REPORT`."""
    sums = filter_report.groupby(["step", "rule", "unit"])[["n_in", "n_removed"]].sum()
    return [Step(*row) for row in sums.reset_index("step", drop=True).reset_index().itertuples(index=False)]


def months(filter_report: DataFrame) -> list[Month]:
    """Return the counts of each month, in order, from a table of `schemas.FILTER_REPORT`."""
    counts = []
    for month, rows in filter_report.groupby("month"):
        chain = steps(rows)
        first = {step.unit: step.n_in for step in reversed(chain)}
        lines, comments, paths = (first.get(unit, 0) for unit in ("line", "comment", "path"))
        counts.append(Month(month, lines, comments, paths, chain[-1].left))
    return counts


def filter_warnings(filter_report: DataFrame) -> Iterator[str]:
    """Yield a sentence for each rule that removes almost everything, and one if hardly a dialogue is left."""
    chain = steps(filter_report)
    reached = filter_report["n_in"] >= _MIN_REACHED
    by_month = filter_report[reached & (filter_report["n_removed"] > _REMOVED_SHARE * filter_report["n_in"])]
    for step in chain:
        if step.rule in _NO_LOSS:
            continue
        found = by_month.loc[by_month["rule"] == step.rule, "month"].tolist()
        if step.n_in >= _MIN_REACHED and step.n_removed > _REMOVED_SHARE * step.n_in:
            yield f"{step.rule} removes {step.share} of {step.n_in:,} {step.unit}s: {step.description}."
        elif found:
            more = f" and {len(found) - _MAX_MONTHS} more months" if len(found) > _MAX_MONTHS else ""
            yield (
                f"{step.rule} removes over {100 * _REMOVED_SHARE:.0f} % of all {step.unit}s in "
                f"{', '.join(found[:_MAX_MONTHS])}{more}: {step.description}."
            )
    if chain and chain[0].n_in >= _MIN_LINES and chain[-1].left < _FEW_DIALOGUES:
        count = f"{chain[-1].left} dialogue{'' if chain[-1].left == 1 else 's'}"
        yield f"Only {count} came of {chain[0].n_in:,} lines: few to train on."
