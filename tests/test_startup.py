"""Kedro's own commands start without importing heavy libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
HEAVY = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "matplotlib", "pandas", "nltk", "scipy",
    "pyarrow", "numpy", "statsmodels", "openai", "httpx2", "aiohttp",
)  # fmt: skip

REPORT = f"""
import sys
print("loaded:", *sorted(set(sys.modules) & set({HEAVY!r})))
"""
REGISTRY = "from sage_dialog.pipeline_registry import register_pipelines\nassert register_pipelines()\n"
REGISTRY_LIST = """
import sys
from kedro.framework.cli import main
sys.argv = ["kedro", "registry", "list"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize("code", ["import sage_dialog\n", REGISTRY, REGISTRY_LIST], ids=["import", "registry", "list"])
def test_no_heavy_library_is_imported(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT],
        cwd=SRC.parent,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded:"
