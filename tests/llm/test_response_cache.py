"""Responses are durable, shared and maintained."""

import asyncio
import json
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from live_program import claims, texts

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import ChatRequest, FailureReason, LLMResponse, RequestFailedError
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.llm.response_cache_file import ResponseCacheError

Serve = Callable[..., FaultyServer]
MakeClient = Callable[..., LiveClient]


def chat_request(item: int, role: str = "judge", model: str = "m") -> ChatRequest:
    return ChatRequest(role, model, ({"role": "user", "content": f"{item} — ünï"},), {"temperature": 0.5})


async def filled(response_cache: ResponseCache, items: range, role: str = "judge", cost: float | None = 0.5) -> None:
    for item in items:
        assert await response_cache.claim(chat_request(item, role))
        await response_cache.save(chat_request(item, role), LLMResponse(f"text {item}", 10, 2, 0.25), cost)


def test_a_saved_response_is_visible_to_all(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(3)))
    assert response_cache.get(chat_request(1)) == LLMResponse("text 1", 10, 2, 0.25)
    assert response_cache.get(chat_request(3)) is None
    with sqlite3.connect(response_cache.path) as other:
        assert other.execute("SELECT count(*) FROM responses").fetchone() == (3,)
        assert other.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    seen: list[LLMResponse | None] = []
    thread = threading.Thread(target=lambda: seen.append(response_cache.get(chat_request(2))))
    thread.start()
    thread.join()
    assert seen == [LLMResponse("text 2", 10, 2, 0.25)]


def test_commits_are_on_disk_when_they_return(response_cache: ResponseCache) -> None:
    connection = response_cache._file.connect()
    assert tuple(connection.execute("PRAGMA synchronous").fetchone()) == (2,)  # FULL
    assert tuple(connection.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    connection.close()


def test_a_response_that_cannot_be_written_does_not_undo_the_others(response_cache: ResponseCache) -> None:
    async def run() -> list[object]:
        bad = LLMResponse("half a pair: \ud83d", 1, 1)
        kept = [
            response_cache.save(chat_request(item), bad if item == 5 else LLMResponse("fine", 1, 1), None)
            for item in range(10)
        ]
        return await asyncio.gather(*kept, return_exceptions=True)

    outcomes = loop.run(run())
    assert isinstance(outcomes[5], UnicodeEncodeError)
    assert [outcome for position, outcome in enumerate(outcomes) if position != 5] == [None] * 9
    assert len(list(response_cache.entries())) == 9


def test_a_claim_belongs_to_one_process_until_it_is_released(response_cache: ResponseCache) -> None:
    other = ResponseCache(response_cache.path)  # like another process: it has its own lock
    assert loop.run(response_cache.claim(chat_request(1)))
    assert not loop.run(other.claim(chat_request(1)))
    other.release(chat_request(1))  # not its own claim
    assert not loop.run(other.claim(chat_request(1)))
    response_cache.release(chat_request(1))
    assert claims(response_cache) == 0
    assert loop.run(other.claim(chat_request(1)))
    loop.run(other.save(chat_request(1), LLMResponse("x", 1, 1), None))
    assert not loop.run(response_cache.claim(chat_request(1)))  # the response is saved
    other.close()


def test_the_claims_of_a_dead_process_are_free(response_cache: ResponseCache) -> None:
    other = ResponseCache(response_cache.path)
    loop.run(other.claim(chat_request(1)))
    other._file._lock.release()  # as the kernel does when a process ends
    assert loop.run(response_cache.claim(chat_request(1)))
    next_cache = ResponseCache(response_cache.path)
    assert not loop.run(next_cache.claim(chat_request(1)))
    next_cache.close()


@pytest.mark.parametrize("number", range(20))
def test_concurrent_starts_do_not_take_each_other_for_dead(number: int, tmp_path: Path) -> None:
    """Each start creates the file and checks all locks; none loses its own lock to the check of another."""
    caches: list[ResponseCache] = []
    start = threading.Barrier(8)

    def open_one() -> None:
        start.wait()
        caches.append(ResponseCache(tmp_path / "new.sqlite"))

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caches) == 8
    assert all(one._file.is_alive(other._file.owner) for one in caches for other in caches)
    for one in caches:
        one.close()
    assert not list((tmp_path / "new.sqlite.owners").iterdir())


def test_a_closed_cache_keeps_no_file_open(tmp_path: Path) -> None:
    """Also none that threads have read through which live on, as the one of the event loop does."""

    def open_files() -> list[str]:
        return [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]

    cache = ResponseCache(tmp_path / "new.sqlite")
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(cache.get, chat_request(1)).result()
        assert any(name.startswith(str(tmp_path)) for name in open_files())
        cache.close()
        assert not any(name.startswith(str(tmp_path)) for name in open_files())


def test_two_clients_on_one_cache_send_each_request_once(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache
) -> None:
    server = serve(latency_s=0.005)
    other = ResponseCache(response_cache.path)
    clients = [make_client(server.url, response_cache=one, concurrency=8) for one in (response_cache, other)]
    orders = range(200), range(199, -1, -1)  # from both ends: they meet in the middle
    outcomes: dict[int, list[object]] = {}
    threads = [
        threading.Thread(target=lambda i=i: outcomes.update({i: list(texts(clients[i], orders[i]))})) for i in (0, 1)
    ]
    server.hold()
    for thread in threads:
        thread.start()
    server.wait_for(16)  # both are at work
    server.release()
    for thread in threads:
        thread.join()
    assert outcomes == {i: [f"echo item {item}" for item in orders[i]] for i in (0, 1)}
    assert len(server.calls) == 200 and set(server.paid.values()) == {1}
    assert sum(spent.hits for spent in response_cache.usage()) + sum(other._hits.values()) == 200
    other.close()


def test_failures_hits_and_costs_by_role(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(4)))
    loop.run(filled(response_cache, range(10, 12), "annotator", None))
    for reason in (FailureReason.BUSY, FailureReason.BUSY, FailureReason.TRUNCATED):
        loop.run(response_cache.save_failure(chat_request(9), RequestFailedError(reason, "why", "text"), 7, 3, 0.25))
    for _ in range(5):
        response_cache.get(chat_request(0))
    annotator, judge = response_cache.usage()
    assert (annotator.role, annotator.responses, annotator.hits, annotator.cost) == ("annotator", 2, 0, None)
    assert (judge.responses, judge.hits, judge.failures) == (4, 5, 3)
    assert (judge.prompt_tokens, judge.completion_tokens, judge.cost) == (61, 17, 2.75)
    assert response_cache.failures() == [("judge", FailureReason.BUSY, 2), ("judge", FailureReason.TRUNCATED, 1)]
    assert response_cache.size() > 4096
    assert response_cache.get(chat_request(9)) is None


def test_hits_are_remembered_across_runs(tmp_path: Path) -> None:
    for _ in range(2):
        response_cache = ResponseCache(tmp_path / "j.sqlite")
        if chat_request(1) not in response_cache:
            loop.run(filled(response_cache, range(1, 2)))
        response_cache.get(chat_request(1))
        response_cache.close()
    assert [spent.hits for spent in ResponseCache(tmp_path / "j.sqlite").usage()] == [2]


def test_entries_hold_the_requests(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(3)))
    loop.run(filled(response_cache, range(10, 11), "annotator"))
    entries = list(response_cache.entries(role="judge"))
    assert [entry["response"] for entry in entries] == ["text 0", "text 1", "text 2"]
    assert entries[1]["request"] == chat_request(1).body() == json.loads(json.dumps(chat_request(1).body()))
    assert entries[1]["key"] == chat_request(1).key
    assert [entry["role"] for entry in response_cache.entries()] == ["judge"] * 3 + ["annotator"]
    assert list(response_cache.entries(model="unknown")) == []


def test_dropped_responses_are_requested_again(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(3)))
    loop.run(filled(response_cache, range(10, 13), "annotator"))
    assert response_cache.drop(keys=[chat_request(0).key, "unknown"]) == 1
    assert response_cache.drop(role="annotator", keys=[chat_request(1).key]) == 0
    assert response_cache.drop(role="annotator") == 3
    assert response_cache.get(chat_request(0)) is None and response_cache.get(chat_request(1)) is not None
    assert loop.run(response_cache.claim(chat_request(0)))
    assert response_cache.drop() == 2


@pytest.mark.parametrize(
    "content", [b"this is no database, however long one reads " * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_response_cache(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "responses.sqlite"
    path.write_bytes(content)
    with pytest.raises(ResponseCacheError, match=r"responses\.sqlite cannot be used: .* move it away"):
        ResponseCache(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE replies (thread TEXT)")
    with pytest.raises(ResponseCacheError, match="it holds other tables"):
        ResponseCache(tmp_path / "other.sqlite")


def test_a_damaged_cache(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite"
    response_cache = ResponseCache(path)
    loop.run(filled(response_cache, range(200)))
    response_cache.close()
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.with_name("responses.sqlite-wal").unlink(missing_ok=True)
    path.write_bytes(content)
    with pytest.raises(ResponseCacheError, match="cannot be used"):
        damaged = ResponseCache(path)
        [damaged.get(chat_request(item)) for item in range(200)]


def test_a_closed_cache_raises(tmp_path: Path) -> None:
    response_cache = ResponseCache(tmp_path / "responses.sqlite")
    response_cache.close()
    response_cache.close()
    with pytest.raises(ResponseCacheError, match="closed"):
        loop.run(response_cache.claim(chat_request(1)))
    assert not list((tmp_path / "responses.sqlite.owners").iterdir())


def test_the_key_of_a_request_is_stable() -> None:
    """A changed key would request every cached response again."""
    named = ChatRequest("judge", "m", ({"role": "user", "content": "ü"},), {"max_tokens": 5}, {"type": "object"}, 1)
    assert named.key == "b4c41604678a820e22965f800b908e625455be0725bb92bc5b12b1e68a2319ca"


def test_a_commit_wakes_its_event_loop_once(response_cache: ResponseCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a write that was cancelled while it waited is in it, and its row on disk."""
    begun, go_on, woken = threading.Event(), threading.Event(), []

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        assert go_on.wait(30)

    async def run() -> list[object]:
        held = response_cache._file.submit(hold)
        begun.wait(30)  # what is written from here on is the next commit
        writes = [
            asyncio.create_task(response_cache.save(chat_request(item), LLMResponse("fine", 1, 1), None))
            for item in range(20)
        ]
        await asyncio.sleep(0)
        writes[3].cancel()
        running = asyncio.get_running_loop()
        wake = running.call_soon_threadsafe
        with monkeypatch.context() as patch:
            patch.setattr(running, "call_soon_threadsafe", lambda *call: (woken.append(call), wake(*call)))
            go_on.set()
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        held.result()
        return outcomes

    outcomes = loop.run(run())
    assert isinstance(outcomes[3], asyncio.CancelledError)
    assert [outcome for position, outcome in enumerate(outcomes) if position != 3] == [None] * 19
    assert len(woken) == 1
    assert len(list(response_cache.entries())) == 20


def test_an_event_loop_that_has_closed_does_not_stop_the_writer(response_cache: ResponseCache) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        begun.set()
        assert go_on.wait(30)

    async def leave() -> None:
        response_cache._file.submit(hold)
        begun.wait(30)
        write = asyncio.create_task(response_cache.save(chat_request(1), LLMResponse("fine", 1, 1), None))
        await asyncio.sleep(0)
        write.cancel()

    asyncio.run(leave())
    go_on.set()
    loop.run(filled(response_cache, range(2, 3)))
    assert len(list(response_cache.entries())) == 2
