"""Three policies on the same situations, and a person who votes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from voting import PAIRS, table

from sage_dialog.studio.arena.ballots import Ballot, plan_ballots
from sage_dialog.studio.arena.session import Session
from sage_dialog.studio.arena.vote_file import VoteFile


@pytest.fixture
def rollouts() -> dict[str, pa.Table]:
    return {policy: table(policy, 9) for policy in ("sage_0", "sage_1", "sage_2")}


@pytest.fixture
def ballots(rollouts: dict[str, pa.Table]) -> list[Ballot]:
    return plan_ballots(rollouts, PAIRS, None, "anna", 7)


@pytest.fixture
def new_session(ballots: list[Ballot], tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Opens the arena for a rater, as often as one likes, like a process that was killed each time."""
    opened: list[VoteFile] = []

    def start(rater: str = "anna", asked: list[Ballot] = ballots) -> Session:
        for file in opened:
            file.close()
        opened.append(VoteFile(tmp_path, rater))
        return Session(asked, opened[-1])

    yield start
    for file in opened:
        file.close()
