"""Counts of the lines of one dump, and its unreadable lines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sage_dialog.corpora.reddit.rules import UNREADABLE, Rule
from sage_dialog.corpora.rejects import InputDataError

EXCERPT_CHARACTERS = 200


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
        unread: share of the compressed bytes that damage left unread; 1 where it is unknown.
        rejects: rows of `schemas.REJECTED_LINES`.
    """

    month: str
    file: str
    lines: int = 0
    unread: float = 0.0
    removed: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, line: int, rule: Rule, excerpt: str) -> None:
        self.removed[rule] += 1
        row = {"month": self.month, "file": self.file, "line": line, "reason": rule.value}
        self.rejects.append(row | {"excerpt": excerpt[:EXCERPT_CHARACTERS]})

    def damage(self) -> str | None:
        """Return where and why the archive breaks off."""
        rows = [row for row in self.rejects if row["reason"] == Rule.DAMAGED_ARCHIVE]
        return f"{rows[0]['excerpt']}. All after line {rows[0]['line'] - 1:,} is lost" if rows else None

    def check(self, limits: Limits) -> None:
        """Raise InputDataError if too much of the dump is lost or unreadable."""
        if self.unread > limits.unread_share:
            raise InputDataError(
                f"{self.damage()}. data_processing.max_unread_share = {limits.unread_share} allows less: fetch the "
                "dump again, or raise the limit (1.0 goes on without what is lost)."
            )
        unreadable = +Counter({rule.value: self.removed[rule] for rule in UNREADABLE})
        if unreadable.total() > limits.reject_share * self.lines:
            reasons = ", ".join(f"{rule}: {count}" for rule, count in unreadable.most_common())
            examples = [f"line {row['line']}, {row['reason']}: {row['excerpt'][:60]!r}" for row in self.rejects[:3]]
            raise InputDataError(
                f"{unreadable.total()} of the {self.lines} lines of {self.file} cannot be read ({reasons}), more than "
                f"data_processing.max_reject_share = {limits.reject_share} allows. "
                f"The first are {'; '.join(examples)}. Fetch the dump again, or raise the limit."
            )

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Tally:
        fields = json.loads(text)
        return cls(**fields | {"removed": Counter(fields["removed"])})
