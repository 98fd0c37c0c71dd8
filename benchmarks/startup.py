"""Measure `kedro registry list` against that of an empty Kedro project on the same machine.

    python benchmarks/startup.py [--quick] [--repeats N]

Both run in turn, each in a new process with a warm file cache; the ratio is that of the medians.
The goal is at most 1.25. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
GOAL = 1.25

EMPTY_PROJECT = {
    "pyproject.toml": """\
[tool.kedro]
package_name = "empty_project"
project_name = "empty"
kedro_init_version = "1.7.0"
source_dir = "src"
""",
    ".telemetry": "consent: false\n",
    "conf/logging.yml": (PROJECT / "conf/logging.yml").read_text(),
    "conf/base/catalog.yml": "",
    "conf/base/parameters.yml": "",
    "src/empty_project/__init__.py": "",
    "src/empty_project/settings.py": "",
    "src/empty_project/pipeline_registry.py": """\
from kedro.pipeline import Pipeline


def register_pipelines() -> dict[str, Pipeline]:
    return {"__default__": Pipeline([])}
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="nine repetitions")
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    repeats = 9 if options.quick else options.repeats
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder)
        for name, content in EMPTY_PROJECT.items():
            (empty / name).parent.mkdir(parents=True, exist_ok=True)
            (empty / name).write_text(content)
        sides = {"sage-dialog": PROJECT, "empty project": empty}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for path in sides.values():
            registry_list(path)
        for repeat in range(repeats):
            for name, path in sides.items():
                seconds[name].append(registry_list(path))
            print(f"{repeat + 1} of {repeats}", end="\r", file=sys.stderr, flush=True)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name:<14} median {medians[name]:.2f} s, {min(times):.2f} to {max(times):.2f} s over {repeats} runs")
    ratio = medians["sage-dialog"] / medians["empty project"]
    print(f"ratio {ratio:.2f}, goal at most {GOAL}")
    print(json.dumps({"registry_ratio": round(ratio, 3), "goal": GOAL, "repeats": repeats}))


def registry_list(project: Path) -> float:
    """Return the seconds of wall time of `kedro registry list` in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    command = [sys.executable, "-m", "kedro", "registry", "list"]
    start = time.perf_counter()
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
