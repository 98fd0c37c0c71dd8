"""Progress of a round of dialogues: dialogues and candidates per second, and the remaining time."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from tqdm import tqdm

from sage_dialog.selfplay.game import GameState

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 60.0
"""Seconds between log lines without a terminal."""


class RoundProgress(AbstractContextManager["RoundProgress"]):
    """A bar in the terminal, or lines in the log. It counts replies; a dialogue that ends early counts in full.

    Args:
        finished: number of dialogues that an earlier run has finished.
        max_turns: maximum number of messages of a dialogue, the situation included.
    """

    def __init__(self, title: str, dialogues: int, finished: int, max_turns: int) -> None:
        self._title, self._dialogues, self._replies = title, dialogues, max_turns - 1
        self._bar = tqdm(
            total=dialogues * self._replies,
            initial=finished * self._replies,
            desc=title,
            smoothing=0,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]",
            disable=None,
        )
        self._finished, self._played, self._drawn = finished * self._replies, 0, 0
        self._counted: dict[int, tuple[int, int]] = {}
        self._start = self._logged = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, shard: int, dialogues: Sequence[GameState]) -> None:
        """Count the replies and candidates of a shard so far."""
        before = self._counted.get(shard, (0, 0))
        played = sum(self._replies if dialogue.outcome else dialogue.turn - 1 for dialogue in dialogues)
        drawn = sum(len(candidates) for dialogue in dialogues for candidates, _ in dialogue.candidates.values())
        self._counted[shard] = played, drawn
        self._played += played - before[0]
        self._drawn += drawn - before[1]
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._text(now - self._start), refresh=False)
            self._bar.update(played - before[0])
        elif now - self._logged >= LOG_INTERVAL_S:
            self._logged = now
            remaining = (self._dialogues * self._replies - self._finished - self._played) / max(self._played, 1)
            logger.info(
                "%s: %s, %s left",
                *(self._title, self._text(now - self._start)),
                self._bar.format_interval(remaining * (now - self._start)) if self._played else "?",
            )

    def _text(self, elapsed: float) -> str:
        finished = (self._finished + self._played) / self._replies
        counts = {"dialogues": self._played / self._replies, "candidates": self._drawn}
        rates = (f"{count / max(elapsed, 1e-9):.3g} {name}/s" for name, count in counts.items() if count)
        return ", ".join([f"{finished:.0f} of {self._dialogues} dialogues", *rates])
