"""The project's pipelines and configuration, with all data under a test's own folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

PROJECT = Path(__file__).parents[1]
SHARED = PROJECT.parent / "shared" / "data"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is compared to the letter is reckoned on the CPU
os.environ.pop("SAGE_DATA", None)  # nobody's own data: tests write, and prune
os.environ["DO_NOT_TRACK"] = "1"  # sessions on a test's folder do not see the project's .telemetry


@pytest.fixture(scope="session")
def configured() -> Path:
    """The project's root, once Kedro knows the project."""
    bootstrap_project(PROJECT)
    return PROJECT


@pytest.fixture
def open_session(configured: Path, tmp_path: Path) -> Callable[..., KedroSession]:
    """Make a session: one for each run, on `conf/base` and `conf/<env>`, data under `tmp_path/data/…`."""

    def create(env: str = "test", **parameters: Any) -> KedroSession:
        return KedroSession.create(
            project_path=tmp_path, conf_source=str(configured / "conf"), env=env, runtime_params=parameters
        )

    return create


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """The folder of real data beside the repository; tests that use it skip where it is missing."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data is missing: {path}")
        return path

    return folder
