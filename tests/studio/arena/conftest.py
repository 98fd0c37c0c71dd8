"""Three policies on the same situations, and a person who votes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from voting import PAIRS, POLICIES, rollouts_of

from sage_dialog.core.tables import DataFrame
from sage_dialog.studio.arena.ballots import Ballot, plan_ballots
from sage_dialog.studio.arena.session import Session
from sage_dialog.studio.arena.vote_file import VoteFile


@pytest.fixture
def rollouts() -> DataFrame:
    return rollouts_of(9, *POLICIES)


@pytest.fixture
def ballots(rollouts: DataFrame) -> list[Ballot]:
    return plan_ballots(rollouts, PAIRS, None, "anna", 7)


@pytest.fixture
def new_session(ballots: list[Ballot], tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """A function that opens the arena for a rater; each call ends the previous session, like a kill."""
    opened: list[VoteFile] = []

    def start(rater: str = "anna", ballots: list[Ballot] = ballots) -> Session:
        for file in opened:
            file.close()
        opened.append(VoteFile(tmp_path, rater))
        return Session(ballots, opened[-1])

    yield start
    for file in opened:
        file.close()
