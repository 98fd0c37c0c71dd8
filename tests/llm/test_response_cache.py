"""Replies that are durable, shared and looked after."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable
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


def asked(item: int, role: str = "judge", model: str = "m") -> ChatRequest:
    return ChatRequest(role, model, ({"role": "user", "content": f"{item} — ünï"},), {"temperature": 0.5})


async def filled(response_cache: ResponseCache, items: range, role: str = "judge", cost: float | None = 0.5) -> None:
    for item in items:
        assert await response_cache.claim(asked(item, role))
        await response_cache.keep(asked(item, role), LLMResponse(f"said {item}", 10, 2, 0.25), cost)


def test_a_reply_is_there_for_everyone_once_it_is_kept(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(3)))
    assert response_cache.get(asked(1)) == LLMResponse("said 1", 10, 2, 0.25)
    assert response_cache.get(asked(3)) is None
    with sqlite3.connect(response_cache.path) as other:
        assert other.execute("SELECT count(*) FROM replies").fetchone() == (3,)
        assert other.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    seen: list[LLMResponse | None] = []
    thread = threading.Thread(target=lambda: seen.append(response_cache.get(asked(2))))
    thread.start()
    thread.join()
    assert seen == [LLMResponse("said 2", 10, 2, 0.25)]


def test_commits_are_on_disk_when_they_return(response_cache: ResponseCache) -> None:
    connection = response_cache._file.connect()
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_one_that_cannot_be_written_does_not_undo_the_others(response_cache: ResponseCache) -> None:
    async def run() -> list[object]:
        bad = LLMResponse("half a pair: \ud83d", 1, 1)
        kept = [
            response_cache.keep(asked(item), bad if item == 5 else LLMResponse("fine", 1, 1), None)
            for item in range(10)
        ]
        return await asyncio.gather(*kept, return_exceptions=True)

    outcomes = loop.run(run())
    assert isinstance(outcomes[5], UnicodeEncodeError)
    assert [outcome for place, outcome in enumerate(outcomes) if place != 5] == [None] * 9
    assert len(list(response_cache.entries())) == 9


def test_a_claim_is_one_processs_until_it_is_given_back(response_cache: ResponseCache) -> None:
    other = ResponseCache(response_cache.path)  # as good as another process: it has a lock of its own
    assert loop.run(response_cache.claim(asked(1)))
    assert not loop.run(other.claim(asked(1)))
    other.give_back(asked(1))  # not its own to give
    assert not loop.run(other.claim(asked(1)))
    response_cache.give_back(asked(1))
    assert claims(response_cache) == 0
    assert loop.run(other.claim(asked(1)))
    loop.run(other.keep(asked(1), LLMResponse("x", 1, 1), None))
    assert not loop.run(response_cache.claim(asked(1)))  # there is nothing to ask
    other.close()


def test_the_claims_of_one_that_is_gone_fall_to_the_next(response_cache: ResponseCache) -> None:
    other = ResponseCache(response_cache.path)
    loop.run(other.claim(asked(1)))
    other._file._lock.release()  # as the kernel does when a process ends
    assert loop.run(response_cache.claim(asked(1)))
    journal_of_next = ResponseCache(response_cache.path)
    assert not loop.run(journal_of_next.claim(asked(1)))
    journal_of_next.close()


@pytest.mark.parametrize("number", range(20))
def test_many_start_at_once_and_none_is_taken_for_dead(number: int, tmp_path: Path) -> None:
    """On a file that is not there yet; and each start looks at all locks: none may lose its own to another's look."""
    journals: list[ResponseCache] = []
    start = threading.Barrier(8)

    def open_one() -> None:
        start.wait()
        journals.append(ResponseCache(tmp_path / "new.sqlite"))

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journals) == 8
    assert all(one._file.is_alive(other._file.owner) for one in journals for other in journals)
    for one in journals:
        one.close()
    assert not list((tmp_path / "new.sqlite.owners").iterdir())


def test_two_clients_on_one_journal_ask_each_request_once(
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
    assert sum(spent.hits for spent in response_cache.spent()) + sum(other._hits.values()) == 200
    other.close()


def test_failures_hits_and_costs_by_role(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(4)))
    loop.run(filled(response_cache, range(10, 12), "annotator", None))
    for reason in (FailureReason.BUSY, FailureReason.BUSY, FailureReason.TRUNCATED):
        loop.run(response_cache.save_failure(asked(9), RequestFailedError(reason, "why", "said"), 7, 3, 0.25))
    for _ in range(5):
        response_cache.count_hit(asked(0))
    annotator, judge = response_cache.spent()
    assert (annotator.role, annotator.replies, annotator.hits, annotator.cost) == ("annotator", 2, 0, None)
    assert (judge.replies, judge.hits, judge.failures) == (4, 5, 3)
    assert (judge.prompt_tokens, judge.completion_tokens, judge.cost) == (61, 17, 2.75)
    assert response_cache.failures() == [("judge", FailureReason.BUSY, 2), ("judge", FailureReason.TRUNCATED, 1)]
    assert response_cache.size() > 4096
    assert response_cache.get(asked(9)) is None


def test_hits_are_remembered_across_runs(tmp_path: Path) -> None:
    for _ in range(2):
        response_cache = ResponseCache(tmp_path / "j.sqlite")
        if response_cache.get(asked(1)) is None:
            loop.run(filled(response_cache, range(1, 2)))
        response_cache.count_hit(asked(1))
        response_cache.close()
    assert [spent.hits for spent in ResponseCache(tmp_path / "j.sqlite").spent()] == [2]


def test_entries_say_what_was_asked(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(3)))
    loop.run(filled(response_cache, range(10, 11), "annotator"))
    entries = list(response_cache.entries(role="judge"))
    assert [entry["reply"] for entry in entries] == ["said 0", "said 1", "said 2"]
    assert entries[1]["request"] == asked(1).body() == json.loads(json.dumps(asked(1).body()))
    assert entries[1]["key"] == asked(1).key
    assert [entry["role"] for entry in response_cache.entries()] == ["judge"] * 3 + ["annotator"]
    assert list(response_cache.entries(model="unknown")) == []


def test_what_is_dropped_is_asked_again(response_cache: ResponseCache) -> None:
    loop.run(filled(response_cache, range(3)))
    loop.run(filled(response_cache, range(10, 13), "annotator"))
    assert response_cache.drop(keys=[asked(0).key, "unknown"]) == 1
    assert response_cache.drop(role="annotator", keys=[asked(1).key]) == 0
    assert response_cache.drop(role="annotator") == 3
    assert response_cache.get(asked(0)) is None and response_cache.get(asked(1)) is not None
    assert loop.run(response_cache.claim(asked(0)))
    assert response_cache.drop() == 2


@pytest.mark.parametrize(
    "content", [b"this is no database, however long one reads " * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_journal(tmp_path: Path, content: bytes) -> None:
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


def test_a_journal_that_was_damaged(tmp_path: Path) -> None:
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
        [damaged.get(asked(item)) for item in range(200)]


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    response_cache = ResponseCache(tmp_path / "responses.sqlite")
    response_cache.close()
    response_cache.close()
    with pytest.raises(ResponseCacheError, match="closed"):
        loop.run(response_cache.claim(asked(1)))
    assert not list((tmp_path / "responses.sqlite.owners").iterdir())


def test_a_request_has_the_same_name_for_ever() -> None:
    """What is kept today must be found tomorrow: a change of names asks for everything again."""
    named = ChatRequest("judge", "m", ({"role": "user", "content": "ü"},), {"max_tokens": 5}, {"type": "object"}, 1)
    assert named.key == "b4c41604678a820e22965f800b908e625455be0725bb92bc5b12b1e68a2319ca"
