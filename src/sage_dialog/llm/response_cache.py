"""The reply response cache: every reply is on disk before anything uses it, and nothing is asked twice.

One SQLite file, which several processes may use at a time. A request that is on its way is claimed by the process
that asks; the others wait for its reply. A process holds a lock for as long as it lives, so that the claims of one
that was killed fall to the next. A batch outlives the process that submitted it: its requests stay taken until someone
has collected it.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from sage_dialog.llm.requests import ChatRequest, LLMResponse, Request, RequestFailedError
from sage_dialog.llm.response_cache_file import ResponseCacheFile

_OPEN = "state IN ('submitting', 'submitted')"  # batches whose requests are in batch_requests

_BATCH = ("name", "server", "model", "id", "state", "at")
_NOTE_FAILURE = "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_Kept = tuple[Request, LLMResponse, float | None]  # with its cost
_Failed = tuple[Request, RequestFailedError, int, int, float | None]  # with tokens of prompt and reply, and their cost


@dataclass(frozen=True)
class Spent:
    """What one model has cost one role so far. `cost` is None where no price was known."""

    role: str
    model: str
    replies: int
    hits: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


class ResponseCache:
    """The replies of all runs that name this file.

    Reading is quick and done at once; many replies are written in one commit. Use it from any thread.

    Raises:
        ResponseCacheError: if the file is damaged or something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = ResponseCacheFile(path)
        self._hits: dict[tuple[str, str], int] = {}
        atexit.register(self.close)

    def close(self) -> None:
        """Writes what is left. Nothing may be asked of the response cache after that."""
        if self._file.is_open:
            self._count_hits()
            self._file.close()

    # Asking

    def get(self, request: Request) -> LLMResponse | None:
        """The reply that is there already."""
        found = "SELECT text, prompt_tokens, completion_tokens, seconds FROM replies WHERE key = ?"
        try:
            row = self._file.connection().execute(found, (request.key,)).fetchone()
        except sqlite3.Error as error:
            raise self._file.fault(error) from error
        return LLMResponse(*row) if row else None

    def count_hit(self, request: Request) -> None:
        """Counts a reply that was served from here."""
        who = request.role, request.model
        self._hits[who] = self._hits.get(who, 0) + 1

    async def claim(self, request: Request) -> bool:
        """Whether this process may ask; else another one does, and its reply is to be waited for."""
        return await self._file.done(lambda connection: self._claim(connection, request.key))

    async def keep(self, request: Request, reply: LLMResponse, cost: float | None) -> None:
        """Returns when the reply is on disk; its claim is given back with it."""
        await self._file.done(lambda connection: self._keep(connection, request, reply, cost))

    async def save_failure(
        self,
        request: Request,
        failure: RequestFailedError,
        prompt_tokens: int,
        completion_tokens: int,
        cost: float | None,
    ) -> None:
        """Counts a failure; it is never served as a reply."""
        row = _failure_row(request, failure, prompt_tokens, completion_tokens, cost)
        await self._file.done(lambda connection: connection.execute(_NOTE_FAILURE, row))

    def give_back(self, request: Request) -> None:
        """Ends a claim that led to no reply; soon, nobody need wait for it."""
        mine = request.key, self._file.owner
        self._file.do(lambda connection: connection.execute("DELETE FROM claims WHERE key = ? AND owner = ?", mine))

    # Batches

    async def open_batch(self, name: str, server: str, model: str, requests: Sequence[Request]) -> list[Request]:
        """Notes a batch that is to be submitted, of those of the requests that may be asked; these are returned.

        They are taken until the batch is collected or forgotten, whatever becomes of this process. `name` is this
        project's.
        """
        rows = await asyncio.to_thread(lambda: [(request.key, name, _pack(request)) for request in requests])

        def begin(connection: sqlite3.Connection) -> list[Request]:
            taken = [n for n, request in enumerate(requests) if self._claim(connection, request.key)]
            connection.executemany("INSERT INTO batch_requests VALUES (?, ?, ?)", [rows[n] for n in taken])
            connection.executemany("DELETE FROM claims WHERE key = ?", [(rows[n][0],) for n in taken])
            if taken:
                row = name, server, model, time.time()
                connection.execute("INSERT INTO batches VALUES (?, ?, ?, NULL, 'submitting', ?)", row)
                connection.execute("INSERT INTO claims VALUES (?, ?)", (name, self._file.owner))
            return [requests[n] for n in taken]

        opened: list[Request] = await self._file.done(begin)
        return opened

    async def leave_out(self, name: str, keys: Iterable[str]) -> None:
        """Frees requests of a batch that is not submitted yet; without any, there is no batch."""

        def free(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM batch_requests WHERE key = ?", [(key,) for key in keys])
            if not connection.execute("SELECT 1 FROM batch_requests WHERE name = ?", (name,)).fetchone():
                _forget_batch(connection, name)

        await self._file.done(free)

    async def mark_submitted(self, name: str, batch_id: str) -> None:
        """Remembers under which id the server has a batch."""
        await self._file.done(
            lambda connection: connection.execute(
                "UPDATE batches SET id = ?, state = 'submitted', at = ? WHERE name = ?", (batch_id, time.time(), name)
            )
        )

    async def adopt_batches(self, server: str, model: str) -> list[tuple[str, str | None, dict[str, Request]]]:
        """Takes over the open batches that nobody sees through: names, the server's ids, and requests by key.

        The id is None where it is not known whether the server has the batch.
        """

        def adopt(connection: sqlite3.Connection) -> list[tuple[str, str | None, dict[str, Request]]]:
            adopted = []
            for batch in self._left_behind(connection):
                if (batch["server"], batch["model"]) == (server, model):
                    name = batch["name"]
                    connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (name, self._file.owner))
                    rows = connection.execute("SELECT key, asked FROM batch_requests WHERE name = ?", (name,))
                    adopted.append((name, batch["id"], {key: _unpack(asked) for key, asked in rows}))
            return adopted

        batches: list[tuple[str, str | None, dict[str, Request]]] = await self._file.done(adopt)
        return batches

    async def let_go(self, name: str) -> None:
        """Leaves a batch to whoever adopts it."""
        mine = name, self._file.owner
        await self._file.done(
            lambda connection: connection.execute("DELETE FROM claims WHERE key = ? AND owner = ?", mine)
        )

    async def collect_batch(self, name: str, kept: Sequence[_Kept], failed: Sequence[_Failed]) -> None:
        """Keeps all that a batch has brought, and frees its requests, in one commit; once only."""
        failures = [_failure_row(*failure) for failure in failed]

        def collect(connection: sqlite3.Connection) -> None:
            if not connection.execute(f"SELECT 1 FROM batches WHERE name = ? AND {_OPEN}", (name,)).fetchone():
                return
            for request, reply, cost in kept:
                self._keep(connection, request, reply, cost)
            connection.executemany(_NOTE_FAILURE, failures)
            connection.execute("DELETE FROM batch_requests WHERE name = ?", (name,))
            connection.execute("DELETE FROM claims WHERE key = ?", (name,))
            connection.execute("UPDATE batches SET state = 'collected', at = ? WHERE name = ?", (time.time(), name))

        await self._file.done(collect)

    async def forget_batch(self, name: str) -> None:
        """Frees the requests of a batch that will bring nothing."""
        await self._file.done(lambda connection: _forget_batch(connection, name))

    async def orphaned_batches(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        """The open batches that nobody sees through and that hold any of these requests, as in `batches`."""

        def look(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            return [
                batch
                for batch in self._left_behind(connection)
                if any(
                    connection.execute(
                        "SELECT 1 FROM batch_requests WHERE key = ? AND name = ?", (request.key, batch["name"])
                    ).fetchone()
                    for request in requests
                )
            ]

        batches: list[dict[str, Any]] = await self._file.done(look)
        return batches

    def batches(self, state: str | None = None) -> list[dict[str, Any]]:
        """All batches, or those in one state, the oldest first: name, server, model, id, state, at."""
        found = self._file.connection().execute(
            f"SELECT {', '.join(_BATCH)} FROM batches WHERE ? IS NULL OR state = ? ORDER BY at", (state, state)
        )
        return [dict(zip(_BATCH, row, strict=True)) for row in found]

    # Looking after it

    def spent(self) -> list[Spent]:
        """What each model has cost each role, in all runs."""
        self._count_hits()
        rows = self._file.connection().execute(
            """
            WITH calls AS (
                SELECT role, model, 1 AS reply, prompt_tokens, completion_tokens, cost FROM replies
                UNION ALL SELECT role, model, 0, prompt_tokens, completion_tokens, cost FROM failures)
            SELECT role, model, sum(reply), (SELECT coalesce(sum(n), 0) FROM hits
                WHERE hits.role = calls.role AND hits.model = calls.model),
                sum(1 - reply), sum(prompt_tokens), sum(completion_tokens), sum(cost)
            FROM calls GROUP BY role, model ORDER BY role, model
            """
        )
        return [Spent(*row) for row in rows]

    def failures(self) -> list[tuple[str, str, int]]:
        """How often each reason came up for each role."""
        query = "SELECT role, reason, count(*) FROM failures GROUP BY role, reason ORDER BY role, count(*) DESC"
        return list(self._file.connection().execute(query))

    def size(self) -> int:
        """Bytes on disk."""
        beside = (self.path.with_name(self.path.name + ending) for ending in ("", "-wal"))
        return sum(path.stat().st_size for path in beside if path.exists())

    def entries(self, role: str | None = None, model: str | None = None) -> Iterator[dict[str, Any]]:
        """The replies with their requests, the oldest first."""
        names = ("key", "role", "model", "request", "reply", "prompt_tokens", "completion_tokens", "cost", "at")
        rows = self._file.connection().execute(
            "SELECT key, role, model, asked, text, prompt_tokens, completion_tokens, cost, at FROM replies "
            "WHERE (? IS NULL OR role = ?) AND (? IS NULL OR model = ?) ORDER BY at, key",
            (role, role, model, model),
        )
        for key, who, by, asked, *rest in rows:
            yield dict(zip(names, (key, who, by, json.loads(zlib.decompress(asked)), *rest), strict=True))

    def count(self, role: str | None = None, model: str | None = None, keys: Sequence[str] = ()) -> int:
        """How many replies `drop` would forget."""
        which, values = _which(role, model, keys)
        (number,) = self._file.connection().execute(f"SELECT count(*) FROM replies WHERE {which}", values).fetchone()
        return int(number)

    def keys_older_than(self, days: float) -> list[str]:
        """The keys of replies that came more than so many days ago; that they were used since is not noted."""
        rows = self._file.connection().execute("SELECT key FROM replies WHERE at < ?", (time.time() - days * 86400,))
        return [key for (key,) in rows]

    def drop(self, role: str | None = None, model: str | None = None, keys: Sequence[str] = ()) -> int:
        """Forgets replies, to ask again; how many. With no condition, all of them."""

        which, values = _which(role, model, keys)
        dropped: int = self._file.do(
            lambda connection: connection.execute(f"DELETE FROM replies WHERE {which}", values).rowcount
        ).result()
        with closing(self._file.connect()) as connection:
            connection.execute("VACUUM")
        return dropped

    def _keep(self, connection: sqlite3.Connection, request: Request, reply: LLMResponse, cost: float | None) -> None:
        asked = zlib.compress(json.dumps(request.body()).encode())
        connection.execute(
            "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(request.key, request.role, request.model, asked, reply.text),
                *(reply.prompt_tokens, reply.completion_tokens, cost, reply.seconds, time.time()),
            ),
        )
        connection.execute("DELETE FROM claims WHERE key = ?", (request.key,))

    def _claim(self, connection: sqlite3.Connection, key: str) -> bool:
        if connection.execute("SELECT 1 FROM replies WHERE key = ?", (key,)).fetchone():
            return False  # it came in the meantime
        if connection.execute("SELECT 1 FROM batch_requests WHERE key = ?", (key,)).fetchone():
            return False  # it is to come with a batch
        if connection.execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", (key, self._file.owner)).rowcount:
            return True
        (owner,) = connection.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
        if owner == self._file.owner or not self._file.is_alive(owner):
            connection.execute("UPDATE claims SET owner = ? WHERE key = ?", (self._file.owner, key))
            return True
        return False

    def _left_behind(self, connection: sqlite3.Connection) -> list[dict[str, Any]]:
        rows = connection.execute(
            f"SELECT {', '.join(_BATCH)}, owner FROM batches LEFT JOIN claims ON claims.key = name WHERE {_OPEN} "
            "ORDER BY at"
        ).fetchall()
        return [
            dict(zip(_BATCH, batch, strict=True))
            for *batch, owner in rows
            if owner is None or (owner != self._file.owner and not self._file.is_alive(owner))
        ]

    def _count_hits(self) -> None:
        hits, self._hits = self._hits, {}
        for (role, model), n in hits.items():
            self._file.do(partial(_add_hits, role=role, model=model, n=n)).result()


def _add_hits(connection: sqlite3.Connection, role: str, model: str, n: int) -> None:
    connection.execute(
        "INSERT INTO hits VALUES (?, ?, ?) ON CONFLICT (role, model) DO UPDATE SET n = n + excluded.n",
        (role, model, n),
    )


def _forget_batch(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM batch_requests WHERE name = ?", (name,))
    connection.execute("DELETE FROM claims WHERE key = ?", (name,))
    connection.execute("DELETE FROM batches WHERE name = ?", (name,))


def _failure_row(
    request: Request, failure: RequestFailedError, prompt_tokens: int, completion_tokens: int, cost: float | None
) -> tuple[Any, ...]:
    return (
        *(request.key, request.role, request.model, failure.reason.value, failure.detail, failure.response_text),
        *(prompt_tokens, completion_tokens, cost, time.time()),
    )


def _pack(request: Request) -> bytes:
    return zlib.compress(json.dumps({part.name: getattr(request, part.name) for part in fields(ChatRequest)}).encode())


def _unpack(packed: bytes) -> Request:
    given = json.loads(zlib.decompress(packed))
    return ChatRequest(**given | {"messages": tuple(given["messages"])})


def _which(role: str | None, model: str | None, keys: Sequence[str]) -> tuple[str, list[str]]:
    """The condition of a query on replies, and its values."""
    given = {"role = ?": role, "model = ?": model}
    conditions = [condition for condition, value in given.items() if value is not None]
    values = [value for value in given.values() if value is not None]
    if keys:
        conditions.append("key IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(list(keys)))
    return " AND ".join(conditions) or "TRUE", values
