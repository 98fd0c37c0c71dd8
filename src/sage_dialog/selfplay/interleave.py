"""Several games in progress in one process: while one waits for the selector, the next is sampled."""

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
Selected = list[int | NoChoice]


def interleave(
    games: Iterable[tuple[Name, Turns]], select: Callable[[list[Choice]], Selected], max_games: int
) -> Iterator[tuple[Name, bool]]:
    """Play named games to their end; after each turn, yield the game's name and whether it has ended.

    Only the caller's thread plays, and so samples. `select` runs in threads of its own, one for each of up to
    `max_games` games. Games are independent, so their order decides nothing but the running time.

    An error of either side is raised after all running calls of `select` have returned, because they may be billed.
    """
    waiting = iter(games)
    ready: deque[tuple[Name, Turns, Selected | None]] = deque()
    pending: dict[Future[Selected], tuple[Name, Turns]] = {}
    with ThreadPoolExecutor(max_games, "selector") as selectors:
        try:
            while True:
                ready.extend((*game, None) for game in islice(waiting, max_games - len(ready) - len(pending)))
                if not ready and not pending:
                    return
                for future in wait(pending, 0 if ready else None, FIRST_COMPLETED).done:
                    ready.append((*pending.pop(future), future.result()))
                name, turns, selected = ready.popleft()
                try:
                    choices = turns.send(selected)  # type: ignore[arg-type]  # None starts a generator
                except StopIteration:
                    yield name, True
                    continue
                if choices:
                    pending[selectors.submit(select, choices)] = name, turns
                else:
                    ready.append((name, turns, []))
                yield name, False
        except BaseException:
            if running := sum(not future.done() for future in pending):
                logger.info("waiting for the selector's running requests for %d shards before stopping", running)
            raise
