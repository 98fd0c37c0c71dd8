"""How far a round of dialogues is: dialogues and candidates a second, and the time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from sage_dialog.selfplay.game_state import GameState

logger = logging.getLogger(__name__)

LINE_EVERY_S = 60.0
"""Where there is no terminal for a bar, a line in the log so often."""

_BAR = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"


class Progress:
    """A bar in the terminal, or lines in the log. It moves by replies; a dialogue that ends early has had all of its.

    Args:
        title: of what is played.
        dialogues: how many there are.
        finished: how many of them an earlier run has played.
        max_turns: messages of a dialogue at most, the situation included.
    """

    def __init__(self, title: str, dialogues: int, finished: int, max_turns: int) -> None:
        from tqdm import tqdm

        self._title, self._dialogues, self._replies = title, dialogues, max_turns - 1
        self._bar = tqdm(
            total=dialogues * self._replies,
            initial=finished * self._replies,
            desc=title,
            smoothing=0,
            bar_format=_BAR,
            disable=None,
        )
        self._finished, self._given, self._drawn = finished * self._replies, 0, 0
        self._counted: dict[int, tuple[int, int]] = {}
        self._started = self._line_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, shard: int, dialogues: Sequence[GameState]) -> None:
        """Takes note of how far the dialogues of a shard are."""
        before = self._counted.get(shard, (0, 0))
        given = sum(self._replies if dialogue.outcome else dialogue.turn - 1 for dialogue in dialogues)
        drawn = sum(len(candidates) for dialogue in dialogues for candidates, _ in dialogue.candidates.values())
        self._counted[shard] = given, drawn
        self._given += given - before[0]
        self._drawn += drawn - before[1]
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._text(now - self._started), refresh=False)
            self._bar.update(given - before[0])
        elif now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            left = (self._dialogues * self._replies - self._finished - self._given) / max(self._given, 1)
            logger.info(
                "%s: %s, %s left",
                *(self._title, self._text(now - self._started)),
                self._bar.format_interval(left * (now - self._started)) if self._given else "?",
            )

    def _text(self, elapsed: float) -> str:
        played = (self._finished + self._given) / self._replies
        rates = {"dialogues": self._given / self._replies, "candidates": self._drawn}
        by_second = (f"{count / max(elapsed, 1e-9):.3g} {what}/s" for what, count in rates.items() if count)
        return ", ".join([f"{played:.0f} of {self._dialogues} dialogues", *by_second])
