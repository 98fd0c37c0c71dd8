"""A run that is killed at any moment and restarted loses no returned response and sends few requests twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from annotation_program import annotate
from faulty_server import FaultyServer

from sage_dialog.llm.response_cache import ResponseCache

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
SRC = TESTS.parents[1] / "src"
Serve = Callable[..., FaultyServer]


def start(
    server: FaultyServer,
    response_cache: Path,
    items: int,
    results: Path,
    *more: object,
    script: str = "live_program.py",
) -> subprocess.Popen:
    arguments = [server.url, response_cache, items, results, *more]
    return subprocess.Popen(
        [sys.executable, TESTS / script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a progress bar
        text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )


def finish(process: subprocess.Popen) -> list[str]:
    lines, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return lines.splitlines()


def test_a_returned_response_is_on_disk(serve: Serve, tmp_path: Path) -> None:
    process = start(serve(latency_s=0.01), tmp_path / "j.sqlite", 50, tmp_path / "results")
    assert process.stdout is not None
    returned = process.stdout.readline().strip()
    process.kill()
    process.wait()
    assert returned in [entry["response"] for entry in ResponseCache(tmp_path / "j.sqlite").entries()]


def test_killed_at_random_moments_only_calls_in_flight_are_sent_again(serve: Serve, tmp_path: Path) -> None:
    number, draw = 300, random.Random(11)

    def run(server: FaultyServer, name: str) -> subprocess.Popen:
        (tmp_path / name).mkdir(exist_ok=True)
        return start(server, tmp_path / f"{name}.sqlite", number, tmp_path / name, script="annotation_program.py")

    whole = serve(reply=annotate, latency_s=0.02)
    finish(run(whole, "whole"))

    server = serve(reply=annotate, latency_s=0.02)
    lost = 0
    moments = sorted(draw.randrange(number) for _ in range(5))
    for moment in [-1, *moments]:  # the first before anything is sent
        before = len(server.calls)
        process = run(server, "killed")
        deadline = time.monotonic() + 120
        while len(server.paid) <= moment and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(draw.random() * 0.03)
        process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        process.wait()
        assert list((tmp_path / "killed").iterdir()) == []
        saved = [entry["request"]["messages"] for entry in ResponseCache(tmp_path / "killed.sqlite").entries()]
        time.sleep(0.05)  # the server may still receive calls
        in_flight = [call for call in server.calls[before:] if call.body["messages"] not in saved]
        assert len(in_flight) <= 16 + 16 // 8  # slots, and responses on their way to the disk without one
        lost += len(in_flight)
    finish(run(server, "killed"))
    assert lost > 10
    assert len(server.calls) == len(whole.calls) + lost
    for name in ("annotations", "rejects"):
        assert len(pq.read_table(tmp_path / "whole" / f"{name}.parquet")) > 0
        same = [(tmp_path / run / f"{name}.parquet").read_bytes() for run in ("whole", "killed")]
        assert same[0] == same[1]


def test_two_processes_send_each_request_once(serve: Serve, tmp_path: Path) -> None:
    server = serve(latency_s=0.02)
    both = [start(server, tmp_path / "j.sqlite", 200, tmp_path / f"results {i}") for i in (1, 2)]
    assert [len(finish(process)) for process in both] == [200, 200]
    assert len(server.calls) == 200 and set(server.paid.values()) == {1}
    assert (tmp_path / "results 1").read_bytes() == (tmp_path / "results 2").read_bytes()


def test_claims_of_a_killed_process_are_taken_by_the_other(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    server.hold()
    first = start(server, tmp_path / "j.sqlite", 20, tmp_path / "results 1", 4)
    server.wait_for(4)
    second = start(server, tmp_path / "j.sqlite", 20, tmp_path / "results 2", 4)
    server.wait_for(8)
    first.kill()
    first.wait()
    server.release()
    assert len(finish(second)) == 20
    assert len(server.calls) == 24  # the four of the first were sent twice
