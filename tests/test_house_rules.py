"""The import contracts of `make lint` cover every package."""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]
IMPORTS_KEDRO = {
    "__main__", "cli", "commands", "datasets", "hooks", "pipeline_registry", "pipelines", "settings",
}  # fmt: skip


def test_no_library_module_may_import_kedro() -> None:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = next(contract for contract in contracts if "kedro" in contract["forbidden_modules"])["source_modules"]
    packages = {path.parent.name for path in (PROJECT / "src/sage_dialog").glob("*/__init__.py")}
    files = {path.stem for path in (PROJECT / "src/sage_dialog").glob("*.py")} - {"__init__"}
    assert {name.removeprefix("sage_dialog.") for name in held} == (packages | files) - IMPORTS_KEDRO
