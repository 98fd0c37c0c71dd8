"""Counts of the lines of one dump, and its unreadable lines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sage_dialog.corpora.reddit.rules import UNREADABLE, Rule

EXCERPT_CHARACTERS = 200


@dataclass
class Tally:
    """Counts of lines and removals of one dump; `rejects` are rows of `schemas.REJECTED_LINES`."""

    month: str
    file: str
    lines: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def reject(self, line: int, rule: Rule, excerpt: str) -> None:
        self.removed[rule] += 1
        row = {"month": self.month, "file": self.file, "line": line, "reason": rule.value}
        self.rejects.append(row | {"excerpt": excerpt[:EXCERPT_CHARACTERS]})

    def check(self, max_reject_share: float) -> None:
        """Raise ValueError if too many lines are unreadable."""
        unreadable = +Counter({rule.value: self.removed[rule] for rule in UNREADABLE})
        if unreadable.total() > max_reject_share * self.lines:
            reasons = ", ".join(f"{rule}: {count}" for rule, count in unreadable.most_common())
            examples = [f"line {row['line']}, {row['reason']}: {row['excerpt'][:60]!r}" for row in self.rejects[:3]]
            raise ValueError(
                f"{unreadable.total()} of the {self.lines} lines of {self.file} cannot be read ({reasons}), more than "
                f"data_processing.max_reject_share = {max_reject_share} allows. The first are {'; '.join(examples)}. "
                "Fetch the dump again, or raise the limit."
            )

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Tally:
        fields = json.loads(text)
        return cls(**fields | {"removed": Counter(fields["removed"])})
