"""Killed at random moments and started again, does a whole run end, and with the same bytes?

    python benchmarks/kills.py              # the demo at the size of a test, killed 20 times: half an hour on a core
    python benchmarks/kills.py --kills 100 --seed 1
    python benchmarks/kills.py --quick      # the stages before training, killed 3 times

One run is left alone. On other data the same command is started, and it and its workers killed (SIGKILL) after a random
part of the time that the first took, again and again; after every fourth kill it is let to the end. Compared are all
tables and policies, in their latest versions, byte by byte. The last line is one JSON object; the exit code is 1 where
something differs, or a run that nobody killed did not end.
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
BETWEEN = 4  # kills, after which a run is let to the end
QUICK = ["--to-outputs", "sft_conversations,situations", "--params", "microworld.threads=120,data_processing.workers=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for the data of both")
    given = parser.parse_args()
    kills, options = (3, QUICK) if given.quick else (given.kills, [])
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        whole, killed = folder / "whole", folder / "killed"
        began = time.monotonic()
        run(whole, options)
        took = time.monotonic() - began
        expected = made(whole)
        print(f"left alone: {took:.0f} s, {len(expected)} files of tables and policies")
        draw, done, ended, differing = random.Random(given.seed), 0, 0, set[str]()
        while done < kills:
            after = draw.uniform(0, took)
            if run(killed, options, after):
                done += 1
                print(f"kill {done} of {kills}, after {after:.1f} s", flush=True)
                if done % BETWEEN and done < kills:
                    continue
                run(killed, options)
            ended += 1
            found = made(killed)
            differing |= {name for name in {*expected, *found} if expected.get(name) != found.get(name)}
            print(f"to the end: {len(differing)} files differ", flush=True)
    for name in sorted(differing):
        print(f"differs: {name}")
    figures = {"kills": done, "runs_to_the_end": ended, "files": len(expected), "differing": sorted(differing)}
    print(json.dumps(figures))
    sys.exit(bool(differing))


def run(data: Path, options: list[str], kill_after: float | None = None) -> bool:
    """Run the demo on `data`, or kill it after so many seconds; whether it was killed.

    Raises:
        SystemExit: if it ends with an error.
    """
    command = [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "demo", *options]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | {"SAGE_DATA": str(data)},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        if process.returncode:
            said.seek(0)
            sys.exit(f"a run that nobody killed ended with {process.returncode}:\n{said.read()[-3000:]}")
    return False


def made(data: Path) -> dict[str, str]:
    """sha256 of each file of the latest versions of tables and policies."""
    found = {}
    for entry in sorted([*data.glob("0*/*.parquet"), *data.glob("06_models/*")]):
        latest = max(path for path in entry.iterdir() if not path.name.startswith("."))
        for file in sorted(path for path in latest.rglob("*") if path.is_file()):
            found[f"{entry.name}/{file.relative_to(latest)}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


if __name__ == "__main__":
    main()
