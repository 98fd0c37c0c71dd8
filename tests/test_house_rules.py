"""The import contracts of `make lint` leave no room of the house out."""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
KNOWS_KEDRO = {
    "__main__", "cli", "commands", "datasets", "hooks", "pipeline_registry", "pipelines", "recording", "settings",
    "tracking"
}  # fmt: skip


def test_every_library_module_is_held_to_know_no_kedro() -> None:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = next(contract for contract in contracts if "kedro" in contract["forbidden_modules"])["source_modules"]
    rooms = {path.parent.name for path in (PROJECT / "src/sage_dialog").glob("*/__init__.py")}
    files = {path.stem for path in (PROJECT / "src/sage_dialog").glob("*.py")} - {"__init__"}
    assert {name.removeprefix("sage_dialog.") for name in held} == (rooms | files) - KNOWS_KEDRO
