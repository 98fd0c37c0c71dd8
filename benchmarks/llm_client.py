"""Measure throughput, CPU time and memory of the client of `sage_dialog.llm`.

    python benchmarks/llm_client.py    # about 2 minutes on two cores
    python benchmarks/llm_client.py --quick

Calls   2,048 calls, 32 rounds of 64 at a time, to a server in another process that answers each after 200 ms. The
        bound is 64/0.2 s = 320 calls a second. Compared, each in a new process: `LiveClient`, with cache, claims,
        budget and retries; the openai SDK as in a script, with a semaphore and gather, without a cache; and aiohttp, on
        which `LiveClient` is built, in the same way, which is the least that a call can cost. CPU time is the user and
        system time of the client's process from the first call on, with the response cache's thread.
Memory  Responses of 400 bytes through client and response cache from a server that answers at once in the same process:
        resident memory after 100,000 entries against that after 10,000.

Goals: bound_share at least 0.95, at most 1.0 ms of CPU a call, constant memory. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
CONCURRENCY, LATENCY_S = 64, 0.2
MODEL = "measured"
ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 80}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 80},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one run each; memory at 2,000 and 12,000 entries")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--calls", type=int, default=32 * CONCURRENCY)
    parser.add_argument("--side", choices=("server", *SIDES, "memory"), help=argparse.SUPPRESS)  # of a child process
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--entries", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(PROJECT / "src"))
    if options.side == "server":
        serve()
    elif options.side == "memory":
        print(json.dumps(memory(options.entries)))
    elif options.side:
        print(json.dumps(measure(options.side, options.url, options.calls)))
    else:
        compare(options.calls, 1 if options.quick else options.repeats, options.quick)


def compare(calls: int, repeats: int, quick: bool) -> None:
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with subprocess.Popen([*COMMAND, "--side", "server"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        for _ in range(repeats):
            for side in SIDES:
                runs[side].append(child("--side", side, "--url", url, "--calls", calls))
        server.terminate()
    bound = CONCURRENCY / LATENCY_S
    figures: dict[str, Any] = {}
    for side, side_runs in runs.items():
        share = statistics.median(calls / run["seconds"] / bound for run in side_runs)
        cpu_ms = statistics.median(1000 * run["cpu_s"] / calls for run in side_runs)
        figures[side] = {"bound_share": round(share, 3), "cpu_ms_per_call": round(cpu_ms, 3)}
        print(f"{side:<7} {share:6.1%} of {bound:.0f} calls/s, {cpu_ms:.2f} ms of CPU a call, {repeats} runs")
    ratio = figures["ours"]["cpu_ms_per_call"] / figures["sdk"]["cpu_ms_per_call"]
    floor = figures["ours"]["cpu_ms_per_call"] / figures["aiohttp"]["cpu_ms_per_call"]
    print(f"CPU time relative to the SDK: {ratio:.2f}; to aiohttp: {floor:.2f}")
    few, many = (2_000, 12_000) if quick else (10_000, 100_000)
    if quick:
        print(f"Quick: one run each, and memory at {few:,} and {many:,} entries.")
    measured = child("--side", "memory", "--entries", few, many)
    growth = measured["rss_mb"][1] / measured["rss_mb"][0] - 1
    print(
        f"memory {measured['rss_mb'][0]:.1f} MB after {few:,} entries, {measured['rss_mb'][1]:.1f} MB after {many:,} "
        f"({growth:+.1%}); {measured['seconds'] / many * 1000:.2f} ms an entry; "
        f"cache file of {measured['file_mb']:.0f} MB"
    )
    result = {**figures["ours"], "rss_growth": round(growth, 4), "cpu_ratio_to_sdk": round(ratio, 3)}
    result |= {"cpu_ratio_to_aiohttp": round(floor, 3), "aiohttp": figures["aiohttp"]}
    print(json.dumps({**result, "sdk": figures["sdk"], "entries": [few, many], "repeats": repeats, "quick": quick}))


class FixedResponse(asyncio.Protocol):
    """Send the same response to every call after the latency; a web framework would add CPU time."""

    body = json.dumps(ANSWER).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if end and length and len(body) >= int(length[1]):
            self.received = b""
            asyncio.get_running_loop().call_later(LATENCY_S, self.transport.write, self.answer)


def serve() -> None:
    """Print the address and answer calls, with as little work as can be: it counts against the bound."""
    import uvloop

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(FixedResponse, "127.0.0.1", 0, backlog=1024)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
        await server.serve_forever()

    uvloop.run(run())


def measure(side: str, url: str, calls: int) -> dict[str, float]:
    """Return seconds of wall time and of CPU time after the imports and a first call."""
    with tempfile.TemporaryDirectory() as folder:
        steps = SIDES[side](url, calls, Path(folder))
        next(steps)
        started, cpu = time.perf_counter(), time.process_time()
        replies = next(steps)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    assert len(replies) == calls and set(replies) == {"word " * 80}
    return {"seconds": seconds, "cpu_s": cpu_s}


def messages(item: int) -> tuple[dict[str, str], ...]:
    return (
        {"role": "system", "content": "Say which is better. " * 20},
        {"role": "user", "content": f"Case {item}. " * 60},
    )


def ours(url: str, calls: int, folder: Path) -> Iterator[list[str]]:
    client = _client(url, folder)

    async def request(item: int) -> str:
        return (await client.request(client.chat_request("judge", messages(item)))).text

    yield list(client.map(request, [-1]))
    yield list(client.map(request, range(calls)))


def bare(url: str, calls: int, folder: Path) -> Iterator[list[str]]:
    import aiohttp

    loop = asyncio.new_event_loop()
    at_once = asyncio.Semaphore(CONCURRENCY)

    async def request(session: aiohttp.ClientSession, item: int) -> str:
        body = {"model": MODEL, "messages": messages(item), "max_tokens": 100}
        async with at_once, session.post(f"{url}/chat/completions", json=body) as response:
            return json.loads(await response.read())["choices"][0]["message"]["content"]

    async def request_all(items: range) -> list[str]:
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(request(session, item) for item in items))

    yield loop.run_until_complete(request_all(range(-1, 0)))
    yield loop.run_until_complete(request_all(range(calls)))


def sdk(url: str, calls: int, folder: Path) -> Iterator[list[str]]:
    from openai import AsyncOpenAI

    loop = asyncio.new_event_loop()
    client = AsyncOpenAI(api_key="none", base_url=url)
    at_once = asyncio.Semaphore(CONCURRENCY)

    async def request(item: int) -> str:
        async with at_once:
            reply = await client.chat.completions.create(model=MODEL, messages=messages(item), max_tokens=100)
        return reply.choices[0].message.content

    async def request_all(items: range) -> list[str]:
        return await asyncio.gather(*map(request, items))

    yield loop.run_until_complete(request_all(range(-1, 0)))
    yield loop.run_until_complete(request_all(range(calls)))


def memory(entries: Sequence[int]) -> dict[str, Any]:
    """Return the resident memory after each number of entries of one run."""
    import psutil

    process, rss = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        client = _client("http://127.0.0.1:9/v1", Path(folder))
        [server] = client.servers

        async def answer(request: Any, new_seeds: int = 0) -> dict[str, Any]:
            return ANSWER | {"seconds": 0.0}

        server.send = answer  # type: ignore[method-assign]

        async def request(item: int) -> int:
            return len((await client.request(client.chat_request("judge", messages(item)))).text)

        started = time.perf_counter()
        for number, _ in enumerate(client.map(request, range(max(entries))), 1):
            if number in entries:
                rss.append(process.memory_info().rss / 1e6)
        seconds = time.perf_counter() - started
        client.response_cache.close()
        file_mb = client.response_cache.size() / 1e6
    return {"rss_mb": rss, "seconds": seconds, "file_mb": file_mb}


def _client(url: str, folder: Path) -> Any:
    from sage_dialog.config import Caps, Price
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.endpoint import Endpoint
    from sage_dialog.llm.live_client import LiveClient
    from sage_dialog.llm.response_cache import ResponseCache

    endpoint = Endpoint(base_urls=(url,), model=MODEL, concurrency=CONCURRENCY, sampling={"max_tokens": 100})
    budget = Budget(Caps(calls=10**9, tokens=10**12, money=1e6), {}, {MODEL: Price(prompt=0.1, completion=0.4)})
    return LiveClient(endpoint, ResponseCache(folder / "responses.sqlite"), budget)


def child(*arguments: object) -> dict[str, Any]:
    """Return the last line of a new process of this script."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


SIDES = {"ours": ours, "aiohttp": bare, "sdk": sdk}
COMMAND = [sys.executable, __file__]


if __name__ == "__main__":
    main()
