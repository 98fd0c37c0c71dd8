"""Counts of the lines of one dump, and its unreadable lines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sage_dialog.corpora.reddit.rules import UNREADABLE, Rule
from sage_dialog.corpora.rejects import InputDataError

EXCERPT_CHARACTERS = 200
MAX_KEPT_REJECTS = 1_000
"""Rows of `schemas.REJECTED_LINES` of a dump and a reason, the first ones; all rejects are counted."""

_MIN_LINES = 100_000  # of a dump that is being read, before its share of unreadable lines can stop the run


@dataclass(frozen=True)
class Limits:
    """Losses of input up to which a run continues.

    Attributes:
        reject_share: share of a dump's lines that may be unreadable.
        unread_share: share of a dump's compressed bytes that damage may leave unread; an archive that ends too early
            counts as unread, since how much is missing is unknown.
        require_submissions: a month of comments needs its submissions, where the rules read them.
    """

    reject_share: float = 1.0
    unread_share: float = 1.0
    require_submissions: bool = False


NO_LIMITS = Limits()


@dataclass
class Tally:
    """Counts of lines and removals of one dump.

    Attributes:
        limits: losses up to which the run continues.
        unread: share of the compressed bytes that damage left unread; 1 where it is unknown.
        rejects: rows of `schemas.REJECTED_LINES`, up to MAX_KEPT_REJECTS of a reason.
    """

    month: str
    file: str
    limits: Limits = NO_LIMITS
    lines: int = 0
    unread: float = 0.0
    removed: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, line: int, rule: Rule, excerpt: str) -> None:
        self.removed[rule] += 1
        if self.removed[rule] <= MAX_KEPT_REJECTS:
            row = {"month": self.month, "file": self.file, "line": line, "reason": rule.value}
            self.rejects.append(row | {"excerpt": excerpt[:EXCERPT_CHARACTERS]})

    def unreadable(self) -> Counter[str]:
        """Return the number of unreadable lines by reason."""
        return +Counter({rule.value: self.removed[rule] for rule in UNREADABLE})

    def damage(self) -> str | None:
        """Return where and why the archive breaks off."""
        rows = [row for row in self.rejects if row["reason"] == Rule.DAMAGED_ARCHIVE]
        if not rows:
            return None
        read = rows[0]["line"] - 1
        return f"{rows[0]['excerpt']}. " + (f"All after line {read:,} is lost" if read else "Nothing of it was read")

    def check(self) -> None:
        """Raise InputDataError if too much of the dump is lost or unreadable."""
        if self.unread > self.limits.unread_share:
            raise InputDataError(
                f"{self.damage()}. data_processing.max_unread_share = {self.limits.unread_share} allows less: fetch "
                "the dump again, or raise the limit (1.0 goes on without what is lost)."
            )
        self._check_rejects("the")

    def check_so_far(self) -> None:
        """Raise InputDataError if too many of the lines read so far are unreadable; a few lines say nothing yet."""
        if self.lines >= _MIN_LINES:
            self._check_rejects("the first")

    def _check_rejects(self, which: str) -> None:
        unreadable = self.unreadable()
        if unreadable.total() > self.limits.reject_share * self.lines:
            reasons = ", ".join(f"{rule}: {count:,}" for rule, count in unreadable.most_common())
            examples = [f"line {row['line']}, {row['reason']}: {row['excerpt'][:60]!r}" for row in self.rejects[:3]]
            raise InputDataError(
                f"{unreadable.total():,} of {which} {self.lines:,} lines of {self.file} cannot be read ({reasons}), "
                f"more than data_processing.max_reject_share = {self.limits.reject_share} allows. "
                f"The first are {'; '.join(examples)}. Fetch the dump again, or raise the limit."
            )

    def to_json(self) -> str:
        return json.dumps({name: value for name, value in vars(self).items() if name != "limits"})

    @classmethod
    def from_json(cls, text: str, limits: Limits) -> Tally:
        fields = json.loads(text)
        return cls(**fields | {"limits": limits, "removed": Counter(fields["removed"])})
