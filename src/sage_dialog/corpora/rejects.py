"""What a reader left out and why. Nothing is dropped without one of these."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reject:
    """One record that was not taken: where it stands (file, line or id) and the reason."""

    where: str
    reason: str


def count_reasons(rejects: Sequence[Reject]) -> Counter[str]:
    return Counter(record.reason for record in rejects)


def log_rejects(logger: logging.Logger, what: str, rejects: Sequence[Reject]) -> None:
    """One warning for each reason: how many, and where the first stands."""
    first = {record.reason: record.where for record in reversed(rejects)}
    for reason, count in count_reasons(rejects).most_common():
        logger.warning("%s: %d set aside: %s (first: %s)", what, count, reason, first[reason])
