"""The wheel of `kedro package`: it has all files, and runs in a folder with the configuration beside it."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "src/sage_dialog"


def test_every_file_of_the_package_is_in_the_wheel() -> None:
    patterns = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in patterns["sage_dialog"] for path in PACKAGE.glob(pattern)}
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert files and files <= packed
    assert {path.parent for path in PACKAGE.rglob("*.py")} == {path.parent for path in PACKAGE.rglob("__init__.py")}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the package as a wheel installs it, and one with `conf`, as its archive unpacks."""
    shutil.copytree(PACKAGE, tmp_path / "site/sage_dialog", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "conf", tmp_path / "work/conf")
    return tmp_path


@pytest.mark.slow
def test_the_installed_package_runs_where_the_configuration_is(installed: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("SAGE_DATA", "DO_NOT_TRACK")}
    environment |= {"PYTHONPATH": str(installed / "site")}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sage_dialog", "--env", "test", *options]
        return subprocess.run(command, cwd=installed / "work", env=environment, capture_output=True, text=True)

    done = run("--pipelines", "microworld", "--nodes", "microworld.write_raw_data")
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in (done.stdout + done.stderr).lower()
    assert list((installed / "work/data/test/01_raw/reddit").glob("RC_*"))
    refused = run("--pipelines", "sft,nothing")
    assert refused.returncode == 1 and refused.stderr.startswith("Error: No pipeline is called 'nothing'")
