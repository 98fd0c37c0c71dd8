"""Killed at any moment, and started again: nothing that was given out is lost, and little is asked twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from faulty_server import FaultyServer

from sage_dialog.llm.journal import Journal

TESTS = Path(__file__).parent
SRC = TESTS.parents[1] / "src"
Serve = Callable[..., FaultyServer]


def start(server: FaultyServer, journal: Path, items: int, results: Path, concurrency: int = 16) -> subprocess.Popen:
    arguments = [server.url, journal, items, results, concurrency]
    return subprocess.Popen(
        [sys.executable, TESTS / "asking.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )


def finish(process: subprocess.Popen) -> list[str]:
    lines, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return lines.splitlines()


def test_a_result_that_was_given_out_is_on_disk(serve: Serve, tmp_path: Path) -> None:
    process = start(serve(latency_s=0.01), tmp_path / "j.sqlite", 50, tmp_path / "results")
    assert process.stdout is not None
    given = process.stdout.readline().strip()
    process.kill()
    process.wait()
    assert given in [entry["reply"] for entry in Journal(tmp_path / "j.sqlite").entries()]


def test_killed_at_ten_moments_no_more_is_asked_again_than_was_on_its_way(serve: Serve, tmp_path: Path) -> None:
    items, draw = 300, random.Random(11)
    whole = serve(latency_s=0.02)
    assert len(finish(start(whole, tmp_path / "whole.sqlite", items, tmp_path / "whole"))) == items
    assert len(whole.calls) == items

    server = serve(latency_s=0.02)
    lost = 0
    moments = sorted(draw.randrange(items) for _ in range(9))
    for moment in [-1, *moments]:  # the first before anything is sent
        before = len(server.calls)
        process = start(server, tmp_path / "j.sqlite", items, tmp_path / "results")
        deadline = time.monotonic() + 30
        while len(server.paid) <= moment and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(draw.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = {entry["request"]["messages"][0]["content"] for entry in Journal(tmp_path / "j.sqlite").entries()}
        time.sleep(0.05)  # the server may still be taking what was sent
        on_their_way = [call for call in server.calls[before:] if call.body["messages"][0]["content"] not in kept]
        assert len(on_their_way) <= 16
        lost += len(on_their_way)
    assert len(finish(start(server, tmp_path / "j.sqlite", items, tmp_path / "results"))) == items
    assert lost > 10
    assert len(server.calls) == items + lost
    assert (tmp_path / "results").read_bytes() == (tmp_path / "whole").read_bytes()


def test_two_processes_ask_each_request_once(serve: Serve, tmp_path: Path) -> None:
    server = serve(latency_s=0.02)
    both = [start(server, tmp_path / "j.sqlite", 200, tmp_path / f"results {i}") for i in (1, 2)]
    assert [len(finish(process)) for process in both] == [200, 200]
    assert len(server.calls) == 200 and set(server.paid.values()) == {1}
    assert (tmp_path / "results 1").read_bytes() == (tmp_path / "results 2").read_bytes()


def test_what_a_killed_process_was_asking_falls_to_the_other(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    server.hold()
    first = start(server, tmp_path / "j.sqlite", 20, tmp_path / "results 1", 4)
    server.wait_for(4, 30)
    second = start(server, tmp_path / "j.sqlite", 20, tmp_path / "results 2", 4)
    server.wait_for(8, 30)
    first.kill()
    first.wait()
    server.release()
    assert len(finish(second)) == 20
    assert len(server.calls) == 24  # the four of the first were asked again
