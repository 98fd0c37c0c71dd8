"""A studio over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine
from studio_app import Client, Script, numbered_reply, studio_of


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """A function that opens the studio of the test's folder; each call is another start."""
    with ExitStack() as stack:

        def start(script: Script = numbered_reply, **given: object) -> Client:
            engine = ScriptedEngine(script, given.pop("steering_error", None))
            return stack.enter_context(Client(studio_of(tmp_path, engine, **given)))

        yield start
