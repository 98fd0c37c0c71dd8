"""The response cache: each response is on disk before it is used, and no request is sent twice.

One SQLite file, shared by all processes. A process claims a request before it sends it; other processes wait for its
response. The claims of a killed process are free again. The requests of a batch stay taken until a process collects
it, because a batch outlives the process that submitted it.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage_dialog.llm.requests import ChatRequest, LLMResponse, Request, RequestFailedError
from sage_dialog.llm.response_cache_file import ResponseCacheFile

_OPEN = "state IN ('submitting', 'submitted')"  # batches with rows in batch_requests

_Saved = tuple[Request, LLMResponse, float | None]  # with its cost
_Failed = tuple[Request, RequestFailedError, int, int, float | None]  # tokens of prompt and response, and their cost


@dataclass(frozen=True)
class Usage:
    """The calls of one role to one model, and their cost. `cost` is None without a price."""

    role: str
    model: str
    responses: int
    hits: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


class ResponseCache:
    """The responses of all runs that name this file. Its methods may be called from any thread.

    Raises:
        ResponseCacheError: if the file is damaged, no response cache, or read-only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = ResponseCacheFile(path)
        self._hits: Counter[tuple[str, str]] = Counter()
        atexit.register(self.close)

    def close(self) -> None:
        """Write all that is pending, and close the file for good."""
        if self._file.is_open:
            self._save_hits()
            self._file.close()
        atexit.unregister(self.close)

    # Requests

    def __contains__(self, request: Request) -> bool:
        return self._file.read("SELECT 1 FROM responses WHERE key = ?", (request.key,)).fetchone() is not None

    def get(self, request: Request) -> LLMResponse | None:
        """Return the response to a request and count a hit; None if there is none."""
        row = self._file.read(
            "SELECT text, prompt_tokens, completion_tokens, seconds FROM responses WHERE key = ?", (request.key,)
        ).fetchone()
        if row is None:
            return None
        self._hits[request.role, request.model] += 1
        return LLMResponse(*row)

    async def claim(self, request: Request) -> bool:
        """Return whether this process may send the request. If not, another one does, or its response is there."""
        return await self._file.write(lambda connection: self._claim(connection, request.key))

    def release(self, request: Request) -> None:
        """Give up a claim without a response. Returns at once."""
        self._file.submit(lambda connection: self._release(connection, request.key))

    async def save(self, request: Request, response: LLMResponse, cost: float | None) -> None:
        """Save a response and release its claim. Returns when both are on disk."""
        await self._file.write(lambda connection: _save(connection, request, response, cost))

    async def save_failure(
        self,
        request: Request,
        failure: RequestFailedError,
        prompt_tokens: int,
        completion_tokens: int,
        cost: float | None,
    ) -> None:
        """Save a failure for the statistics; it is never returned as a response."""
        failed = request, failure, prompt_tokens, completion_tokens, cost
        await self._file.write(lambda connection: _save_failures(connection, [failed]))

    # Batches

    async def open_batch(self, name: str, server: str, model: str, requests: Sequence[Request]) -> list[Request]:
        """Save a batch before it is submitted; return those of the requests that it may contain.

        They stay taken until the batch is collected or forgotten, whatever happens to this process.

        Args:
            name: this project's name of the batch.
        """
        rows = await asyncio.to_thread(
            lambda: [(request.key, name, _compress(json.dumps(asdict(request)).encode())) for request in requests]
        )

        def begin(connection: sqlite3.Connection) -> list[Request]:
            claimed = [n for n, request in enumerate(requests) if self._claim(connection, request.key)]
            connection.executemany("INSERT INTO batch_requests VALUES (?, ?, ?)", [rows[n] for n in claimed])
            connection.executemany("DELETE FROM claims WHERE key = ?", [(rows[n][0],) for n in claimed])
            if claimed:
                row = name, server, model, time.time()
                connection.execute("INSERT INTO batches VALUES (?, ?, ?, NULL, 'submitting', ?)", row)
                connection.execute("INSERT INTO claims VALUES (?, ?)", (name, self._file.owner))
            return [requests[n] for n in claimed]

        return await self._file.write(begin)

    async def remove_from_batch(self, name: str, keys: Iterable[str]) -> None:
        """Release requests of a batch before it is submitted."""
        delete, rows = "DELETE FROM batch_requests WHERE key = ? AND name = ?", [(key, name) for key in keys]
        await self._file.write(lambda connection: connection.executemany(delete, rows))

    async def mark_submitted(self, name: str, batch_id: str) -> None:
        """Save the server's id of a batch."""
        update = "UPDATE batches SET id = ?, state = 'submitted', updated_at = ? WHERE name = ?"
        await self._file.write(lambda connection: connection.execute(update, (batch_id, time.time(), name)))

    async def adopt_batches(self, server: str, model: str) -> list[tuple[str, str | None, dict[str, Request]]]:
        """Take over the orphaned batches of a server and model: name, the server's id, and requests by key.

        The id is None if the server may or may not have the batch.
        """

        def adopt(connection: sqlite3.Connection) -> list[tuple[str, str | None, dict[str, Request]]]:
            adopted = []
            for batch in self._orphaned_batches(connection):
                if (batch["server"], batch["model"]) == (server, model):
                    name = batch["name"]
                    connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (name, self._file.owner))
                    rows = connection.execute("SELECT key, request FROM batch_requests WHERE name = ?", (name,))
                    adopted.append((name, batch["id"], {key: _unpack(packed) for key, packed in rows}))
            return adopted

        return await self._file.write(adopt)

    async def release_batch(self, name: str) -> None:
        """Leave a batch to the process that adopts it."""
        await self._file.write(lambda connection: self._release(connection, name))

    async def collect_batch(self, name: str, saved: Sequence[_Saved], failed: Sequence[_Failed]) -> None:
        """Save the responses and failures of a batch and release its requests, in one commit, at most once."""

        def collect(connection: sqlite3.Connection) -> None:
            if not connection.execute(f"SELECT 1 FROM batches WHERE name = ? AND {_OPEN}", (name,)).fetchone():
                return
            for request, response, cost in saved:
                _save(connection, request, response, cost)
            _save_failures(connection, failed)
            connection.execute("DELETE FROM batch_requests WHERE name = ?", (name,))
            connection.execute("DELETE FROM claims WHERE key = ?", (name,))
            update = "UPDATE batches SET state = 'collected', updated_at = ? WHERE name = ?"
            connection.execute(update, (time.time(), name))

        await self._file.write(collect)

    async def forget_batch(self, name: str) -> None:
        """Delete a batch without responses, and release its requests."""

        def forget(connection: sqlite3.Connection) -> None:
            for delete in ("batch_requests WHERE name", "claims WHERE key", "batches WHERE name"):
                connection.execute(f"DELETE FROM {delete} = ?", (name,))

        await self._file.write(forget)

    async def orphaned_batches(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        """Return the open batches of dead processes that hold any of these requests, in the form of `batches`."""
        held = "SELECT 1 FROM batch_requests WHERE key = ? AND name = ?"

        def find(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            return [
                batch
                for batch in self._orphaned_batches(connection)
                if any(connection.execute(held, (request.key, batch["name"])).fetchone() for request in requests)
            ]

        return await self._file.write(find)

    def batches(self, state: str | None = None) -> list[dict[str, Any]]:
        """Return all batches, or those in one state, oldest first: name, server, model, id, state, updated_at."""
        query = "SELECT * FROM batches WHERE ? IS NULL OR state = ? ORDER BY updated_at"
        return [dict(row) for row in self._file.read(query, (state, state))]

    # Statistics and maintenance

    def usage(self) -> list[Usage]:
        """Return the usage of each model by each role, over all runs."""
        self._save_hits()
        rows = self._file.read(
            """
            WITH calls AS (
                SELECT role, model, 1 AS response, prompt_tokens, completion_tokens, cost FROM responses
                UNION ALL SELECT role, model, 0, prompt_tokens, completion_tokens, cost FROM failures)
            SELECT role, model, sum(response), (SELECT coalesce(sum(n), 0) FROM hits
                WHERE hits.role = calls.role AND hits.model = calls.model),
                sum(1 - response), sum(prompt_tokens), sum(completion_tokens), sum(cost)
            FROM calls GROUP BY role, model ORDER BY role, model
            """
        )
        return [Usage(*row) for row in rows]

    def failures(self) -> list[tuple[str, str, int]]:
        """Return the number of failures by role and reason."""
        query = "SELECT role, reason, count(*) FROM failures GROUP BY role, reason ORDER BY role, count(*) DESC"
        return [tuple(row) for row in self._file.read(query)]

    def size(self) -> int:
        """Return the size on disk in bytes."""
        files = (self.path.with_name(self.path.name + ending) for ending in ("", "-wal"))
        return sum(path.stat().st_size for path in files if path.exists())

    def entries(self, role: str | None = None, model: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the requests with their responses, oldest first."""
        condition, values = _condition(role, model)
        rows = self._file.read(
            "SELECT key, role, model, request, text AS response, prompt_tokens, completion_tokens, cost, created_at "
            f"FROM responses WHERE {condition} ORDER BY created_at, key",
            values,
        )
        for row in rows:
            yield dict(row) | {"request": json.loads(zlib.decompress(row["request"]))}

    def count(self, role: str | None = None, model: str | None = None, keys: Sequence[str] = ()) -> int:
        """Return the number of responses that `drop` would delete."""
        condition, values = _condition(role, model, keys)
        return int(self._file.read(f"SELECT count(*) FROM responses WHERE {condition}", values).fetchone()[0])

    def keys_older_than(self, days: float) -> list[str]:
        """Return the keys of responses that were saved more than so many days ago; later hits do not count."""
        created_before = time.time() - days * 86400
        rows = self._file.read("SELECT key FROM responses WHERE created_at < ?", (created_before,))
        return [key for (key,) in rows]

    def drop(self, role: str | None = None, model: str | None = None, keys: Sequence[str] = ()) -> int:
        """Delete responses, all of them without a condition; return their number."""
        condition, values = _condition(role, model, keys)
        delete = f"DELETE FROM responses WHERE {condition}"
        dropped = self._file.submit(lambda connection: connection.execute(delete, values).rowcount).result()
        with closing(self._file.connect()) as connection:
            connection.execute("VACUUM")
        return dropped

    def _claim(self, connection: sqlite3.Connection, key: str) -> bool:
        taken = "SELECT 1 FROM responses WHERE key = :key UNION ALL SELECT 1 FROM batch_requests WHERE key = :key"
        if connection.execute(taken, {"key": key}).fetchone():
            return False
        if self._owner(connection, key) not in (None, self._file.owner):
            return False
        connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (key, self._file.owner))
        return True

    def _release(self, connection: sqlite3.Connection, key: str) -> None:
        connection.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, self._file.owner))

    def _orphaned_batches(self, connection: sqlite3.Connection) -> list[dict[str, Any]]:
        batches = connection.execute(f"SELECT * FROM batches WHERE {_OPEN} ORDER BY updated_at").fetchall()
        return [dict(batch) for batch in batches if self._owner(connection, batch["name"]) is None]

    def _owner(self, connection: sqlite3.Connection, key: str) -> str | None:
        """Return the living process that has claimed a request or a batch."""
        row = connection.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
        return row["owner"] if row and self._file.is_alive(row["owner"]) else None

    def _save_hits(self) -> None:
        hits, self._hits = self._hits, Counter()
        add = "INSERT INTO hits VALUES (?, ?, ?) ON CONFLICT (role, model) DO UPDATE SET n = n + excluded.n"
        rows = [(*payer, n) for payer, n in hits.items()]
        self._file.submit(lambda connection: connection.executemany(add, rows)).result()


def _save(connection: sqlite3.Connection, request: Request, response: LLMResponse, cost: float | None) -> None:
    row = (
        *(request.key, request.role, request.model, _compress(request.encoded_body), response.text),
        *(response.prompt_tokens, response.completion_tokens, cost, response.seconds, time.time()),
    )
    connection.execute("INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("DELETE FROM claims WHERE key = ?", (request.key,))


def _save_failures(connection: sqlite3.Connection, failed: Sequence[_Failed]) -> None:
    rows = [
        (
            *(request.key, request.role, request.model, failure.reason.value, failure.detail, failure.response_text),
            *(prompt_tokens, completion_tokens, cost, time.time()),
        )
        for request, failure, prompt_tokens, completion_tokens, cost in failed
    ]
    connection.executemany("INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _compress(content: bytes) -> bytes:
    return zlib.compress(content, level=1)  # 6 % larger, in three quarters of the time


def _unpack(packed: bytes) -> Request:
    fields = json.loads(zlib.decompress(packed))
    return ChatRequest(**fields | {"messages": tuple(fields["messages"])})


def _condition(role: str | None, model: str | None, keys: Sequence[str] = ()) -> tuple[str, list[str]]:
    """Return the SQL condition that selects responses, and its values."""
    values = {"role = ?": role, "model = ?": model}
    if keys:
        values["key IN (SELECT value FROM json_each(?))"] = json.dumps(list(keys))
    chosen = {condition: value for condition, value in values.items() if value is not None}
    return " AND ".join(chosen) or "TRUE", list(chosen.values())
