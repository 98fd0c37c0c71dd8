"""Records that a reader left out, with their reasons."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


class InputDataError(ValueError):
    """Input that cannot be read, or of which too much is lost. The message says what to do."""


@dataclass(frozen=True)
class Reject:
    """A record left out: its place (file, line or id) and the reason."""

    where: str
    reason: str


def log_rejects(logger: logging.Logger, source: str, rejects: Sequence[Reject]) -> None:
    """Log one warning per reason, with the count and the place of the first record."""
    first = {record.reason: record.where for record in reversed(rejects)}
    for reason, count in Counter(record.reason for record in rejects).most_common():
        logger.warning("%s: %d rejected: %s (first: %s)", source, count, reason, first[reason])
