"""The project's pipelines and configuration, with all data under a test's own folder."""

import io
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import memory_dataset
from omegaconf import OmegaConf

PROJECT = Path(__file__).parents[1]
SHARED = PROJECT.parent / "shared" / "data"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # byte-identical results need the CPU
os.environ.pop("SAGE_DATA", None)  # tests write and prune data
os.environ["OMP_NUM_THREADS"] = "1"  # two tests run at a time; before torch is imported
os.environ["DO_NOT_TRACK"] = "1"  # sessions on a test's folder do not see the project's .telemetry

LONGEST = ("test_end_to_end.py", "test_killed_runs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first: at the end, one worker would wait for the other."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _yaml_is_parsed_once() -> Iterator[None]:
    """Equal configuration files are parsed once: hundreds of sessions read them."""
    parse, parsed = OmegaConf.load, {}

    def load(file: Any) -> Any:
        text = file.read() if isinstance(file, io.StringIO) else None  # as Kedro reads them
        if text is None:
            return parse(file)
        if text not in parsed:
            parsed[text] = pickle.dumps(parse(io.StringIO(text)))
        return pickle.loads(parsed[text])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load)
        yield


@pytest.fixture(scope="session", autouse=True)
def _parameters_are_copied_at_once() -> Iterator[None]:
    """Kedro looks for a library that is not installed whenever it copies one of the hundreds of parameters."""
    infer = memory_dataset._infer_copy_mode

    def copy_mode(data: Any) -> Any:
        return "deepcopy" if isinstance(data, str | int | float | list | dict | None) else infer(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_dataset, "_infer_copy_mode", copy_mode)
        yield


@pytest.fixture(scope="session")
def configured() -> Path:
    """The project's root, once Kedro knows the project."""
    bootstrap_project(PROJECT)
    return PROJECT


@pytest.fixture
def open_session(configured: Path, tmp_path: Path) -> Callable[..., KedroSession]:
    """A function that makes a session for one run, on `conf/base` and `conf/<env>`, with data in `tmp_path/data/…`."""

    def create(env: str = "test", **parameters: Any) -> KedroSession:
        return KedroSession.create(
            project_path=tmp_path, conf_source=str(configured / "conf"), env=env, runtime_params=parameters
        )

    return create


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts at a call to a server follow each other almost at once."""
    from sage_dialog.llm import retries

    monkeypatch.setattr(retries, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "_MAX_WAIT_S", 0.01)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A function that returns a folder of real data next to the repository; without it, tests are skipped."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data is missing: {path}")
        return path

    return folder
