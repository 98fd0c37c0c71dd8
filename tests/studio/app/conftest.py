"""A studio over HTTP, and Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
