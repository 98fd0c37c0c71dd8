"""Several games under way in one process: while one waits for the selector, the next is sampled."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from sage_dialog.roles.protocols import Choice, NoChoice
from sage_dialog.selfplay.game import Turns

logger = logging.getLogger(__name__)

Name = TypeVar("Name")
Picked = list[int | NoChoice]


def interleave(
    games: Iterable[tuple[Name, Turns]], select: Callable[[list[Choice]], Picked], at_once: int
) -> Iterator[tuple[Name, bool]]:
    """Plays named games to their end; at each of its turns a game's name, and whether it has ended.

    The caller's thread alone plays, and so samples; `select` runs in threads of its own, one for each of up to
    `at_once` games. As no game sees another, how they take turns decides nothing but the time it takes.

    An error of either side is raised after `select` has returned wherever it is at work: it may be paid for.
    """
    waiting = iter(games)
    ready: deque[tuple[Name, Turns, Picked | None]] = deque()
    asked: dict[Future[Picked], tuple[Name, Turns]] = {}
    with ThreadPoolExecutor(at_once, "selector") as selectors:
        try:
            while True:
                ready.extend((*game, None) for game in islice(waiting, at_once - len(ready) - len(asked)))
                if not ready and not asked:
                    return
                for future in wait(asked, 0 if ready else None, FIRST_COMPLETED).done:
                    ready.append((*asked.pop(future), future.result()))
                name, turns, picked = ready.popleft()
                try:
                    choices = turns.send(picked)  # type: ignore[arg-type]  # None begins a generator
                except StopIteration:
                    yield name, True
                    continue
                if choices:
                    asked[selectors.submit(select, choices)] = name, turns
                else:
                    ready.append((name, turns, []))
                yield name, False
        except BaseException:
            if left := sum(not future.done() for future in asked):
                logger.info("stopping as soon as the selector has answered what it was asked for %d shards", left)
            raise
