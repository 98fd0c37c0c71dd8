"""Compare a run that is killed at random times and restarted with an uninterrupted run, byte by byte.

    python benchmarks/kills.py              # the demo at test size, killed 20 times: half an hour on a core
    python benchmarks/kills.py --kills 100 --seed 1
    python benchmarks/kills.py --quick      # the stages before training, killed 3 times

One run is uninterrupted. In another data folder the same command and its workers are killed (SIGKILL) after a random
part of the duration of the first run, repeatedly; after every fourth kill the run completes. The latest versions of all
tables and policies are compared. The last line is a JSON object; the exit code is 1 if something differs, or an
uninterrupted run fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
KILLS_BEFORE_COMPLETION = 4
QUICK = ["--to-outputs", "sft_conversations,situations", "--params", "microworld.threads=120,data_processing.workers=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, help="keep the data of both runs in this folder")
    args = parser.parse_args()
    kills, options = (3, QUICK) if args.quick else (args.kills, [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        uninterrupted, killed = folder / "uninterrupted", folder / "killed"
        start = time.monotonic()
        run(uninterrupted, options)
        duration = time.monotonic() - start
        expected = digests(uninterrupted)
        print(f"uninterrupted: {duration:.0f} s, {len(expected)} files of tables and policies")
        rng, differing = random.Random(args.seed), set[str]()
        kills_done = completed_runs = 0
        while kills_done < kills:
            kill_after = rng.uniform(0, duration)
            if run(killed, options, kill_after):
                kills_done += 1
                print(f"kill {kills_done} of {kills}, after {kill_after:.1f} s", flush=True)
                if kills_done % KILLS_BEFORE_COMPLETION and kills_done < kills:
                    continue
                run(killed, options)
            completed_runs += 1
            found = digests(killed)
            differing |= {name for name in {*expected, *found} if expected.get(name) != found.get(name)}
            print(f"completed: {len(differing)} files differ", flush=True)
    for name in sorted(differing):
        print(f"differs: {name}")
    figures = {
        "kills": kills_done,
        "runs_to_the_end": completed_runs,
        "files": len(expected),
        "differing": sorted(differing),
    }
    print(json.dumps(figures))
    sys.exit(bool(differing))


def run(data: Path, options: list[str], kill_after: float | None = None) -> bool:
    """Run the demo on `data` and return whether it was killed after `kill_after` seconds.

    Raises:
        SystemExit: if it fails.
    """
    command = [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "demo", *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | {"SAGE_DATA": str(data)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        if process.returncode:
            log.seek(0)
            sys.exit(f"an uninterrupted run failed with {process.returncode}:\n{log.read()[-3000:]}")
    return False


def digests(data: Path) -> dict[str, str]:
    """Return the sha256 of each file of the latest versions of tables and policies."""
    found = {}
    for entry in sorted([*data.glob("0*/*.parquet"), *data.glob("06_models/*")]):
        latest = max(path for path in entry.iterdir() if not path.name.startswith("."))
        for file in sorted(path for path in latest.rglob("*") if path.is_file()):
            found[f"{entry.name}/{file.relative_to(latest)}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


if __name__ == "__main__":
    main()
