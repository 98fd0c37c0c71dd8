"""Time `kedro sage runs` and `kedro sage status` in a project of 10,000 recorded runs and in an empty one.

    python benchmarks/lineage.py [--quick] [--runs N] [--repeats N]

The projects alternate, each command in a new process with a warm file cache. The ratio of a command is that of the
medians, and `runs_ratio` the larger of the two; the goal is at most 2. The records are as large as real ones (hundreds
of definitions each), and the last 300 runs have their tables on the disk. `record_ms` is the time to save a record,
once per node of a run. The last line is a JSON object.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "src"))

from sage_dialog.lineage.content import content_of  # noqa: E402
from sage_dialog.lineage.records import InputRecord, NodeRecord, OutputRecord, Process, RunRecord, Selection  # noqa: E402
from sage_dialog.lineage.run_folder import RunFolder  # noqa: E402

GOAL = 2.0
ON_DISK = 300  # runs with tables
DEFINITIONS = 400
COMMANDS = ("runs", "status")
TABLES = {
    "dialogues": "02_intermediate",
    "situations": "02_intermediate",
    "annotations": "03_primary",
    "sft_conversations": "05_model_input",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two repetitions")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    repeats = 2 if options.quick else options.repeats
    with tempfile.TemporaryDirectory() as folder:
        sides = {"recorded": Path(folder) / "recorded", "empty": Path(folder) / "empty"}
        sides["empty"].mkdir()
        last = record_runs(sides["recorded"], options.runs)
        cost_ms = 1000 * time_save(sides["recorded"], last)
        seconds = {command: {side: list[float]() for side in sides} for command in COMMANDS}
        for repeat in range(repeats):
            for command in COMMANDS:
                for side, data in sides.items():
                    seconds[command][side].append(time_command(command, data))
            print(f"{repeat + 1} of {repeats}", end="\r", file=sys.stderr, flush=True)
    ratios = {}
    for command, times in seconds.items():
        medians = {side: statistics.median(each) for side, each in times.items()}
        ratios[command] = medians["recorded"] / medians["empty"]
        print(
            f"kedro sage {command:<7} {options.runs:,} runs {medians['recorded']:.2f} s, "
            f"empty {medians['empty']:.2f} s, ratio {ratios[command]:.2f}"
        )
    print(f"a record saved: {cost_ms:.1f} ms; goal for the ratios: at most {GOAL}")
    result = {"runs_ratio": round(max(ratios.values()), 3), "goal": GOAL, "runs": options.runs, "repeats": repeats}
    result |= {f"of_{command}": round(ratio, 3) for command, ratio in ratios.items()}
    print(json.dumps(result | {"record_ms": round(cost_ms, 2)}))


def record_runs(data: Path, number: int) -> RunRecord:
    """Write a record an hour, with the tables of the last runs, and return the last record."""
    runs = RunFolder(data / "runs")
    runs.path.mkdir(parents=True)
    began = datetime(2026, 1, 1, tzinfo=UTC)
    table = data / "table.parquet"
    pq.write_table(pa.table({"n": list(range(100))}), table)
    content = content_of(table)
    names = [(began + timedelta(hours=place)).strftime("%Y-%m-%dT%H.%M.%S.000Z") for place in range(number + 1)]
    template = record(names[1], names[0], content.sha256, content.bytes, content.modified_ns).model_dump_json(indent=1)
    runs.file(names[1]).write_text(template)
    for place, run in enumerate(names[1:]):
        if number - place > ON_DISK:  # links to one file, which saves half a gigabyte
            if place:
                os.link(runs.file(names[1]), runs.file(run))
        else:
            runs.file(run).write_text(template.replace(names[1], run).replace(names[0], names[place]))
            for name, layer in TABLES.items():
                version = data / layer / f"{name}.parquet" / run
                version.mkdir(parents=True)
                os.link(table, version / f"{name}.parquet")
    return runs.load(names[-1])


def record(run: str, previous: str, sha256: str, size: int, modified_ns: int) -> RunRecord:
    """Return the record of a run of four nodes with a table each, which reads a table of the previous run."""
    names = list(TABLES)
    reads = {names[0]: InputRecord(version=previous, sha256=sha256)}
    code = {f"sage_dialog.module_{n}:definition_{n}": f"{n:064x}" for n in range(DEFINITIONS)}
    at = f"{run[:10]}T00:00:00.000+00:00"
    return RunRecord(
        run=run,
        started=at,
        ended=at,
        outcome="done",
        process=Process(host="another", pid=1, born=0.0),
        selection=Selection(pipelines=("data_processing", "sac_augmentation")),
        environment="local",
        parameters={"seed": 0},
        git=None,
        python="3.11",
        platform="here",
        packages={f"package_{n}": "1.0" for n in range(30)},
        nodes={
            f"make_{name}": NodeRecord(inputs=(), outputs=(name,), parameters=("seed",), code="c") for name in names
        },
        code=code,
        reads=reads,
        writes={
            name: OutputRecord(
                version=run, node=f"make_{name}", at=at, bytes=size, modified_ns=modified_ns, sha256=sha256
            )
            for name in names
        },
    )


def time_save(data: Path, last: RunRecord, times: int = 50) -> float:
    """Return the median seconds to save a record."""
    runs = RunFolder(data / "runs")
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        runs.save(last)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_command(command: str, data: Path) -> float:
    """Return the seconds of `kedro sage COMMAND` in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "SAGE_DATA": str(data)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "sage", command], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode > 1:  # 1: something is stale
        raise SystemExit(f"kedro sage {command} failed:\n{done.stdout}{done.stderr}")
    return seconds


if __name__ == "__main__":
    main()
