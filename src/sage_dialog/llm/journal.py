"""The reply journal: every reply is on disk before anything uses it, and nothing is asked twice.

One SQLite file, which several processes may use at a time. A request that is on its way is claimed by the process
that asks; the others wait for its reply. A process holds a lock for as long as it lives, so that the claims of one
that was killed fall to the next.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import queue
import sqlite3
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sage_dialog.llm.requests import NoReplyError, Reply, Request

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, role TEXT NOT NULL, model TEXT NOT NULL, asked BLOB NOT NULL, text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL, seconds REAL NOT NULL,
    at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    said TEXT, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hits (
    role TEXT NOT NULL, model TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (role, model));
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY, server TEXT NOT NULL, model TEXT NOT NULL, id TEXT, state TEXT NOT NULL, at REAL NOT NULL);
"""
_BUSY_S = 60  # another process may hold the file for as long

_Task = tuple[Callable[[sqlite3.Connection], Any], Future[Any]]


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


class Journal:
    """The replies of all runs that name this file.

    Reading is quick and done at once; writing is done by one thread, many replies to a commit. Use it from any thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._locks = path.with_name(f"{path.name}.owners")
        self._locks.mkdir(exist_ok=True)
        self._owner = uuid.uuid4().hex
        self._lock = FileLock(self._locks / self._owner)
        self._lock.acquire()
        self._reading = threading.local()
        self._hits: dict[tuple[str, str], int] = {}
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="reply journal", daemon=True)
        self._writer.start()
        self._do(_make_tables).result()
        self._do(self._bury_the_dead).result()
        atexit.register(self.close)

    def close(self) -> None:
        """Writes what is left. Nothing may be asked of the journal after that."""
        if self._writer.is_alive():
            self._do(self._count_hits).result()
            self._tasks.put(None)
            self._writer.join()
            self._lock.release()
            (self._locks / self._owner).unlink(missing_ok=True)

    # Asking

    def reply_to(self, request: Request) -> Reply | None:
        """The reply that is there already."""
        row = (
            self._connection()
            .execute(
                "SELECT text, prompt_tokens, completion_tokens, seconds FROM replies WHERE key = ?", (request.key,)
            )
            .fetchone()
        )
        return Reply(*row) if row else None

    def note_hit(self, request: Request) -> None:
        """Counts a reply that was served from here."""
        who = request.role, request.model
        self._hits[who] = self._hits.get(who, 0) + 1

    async def claim(self, request: Request) -> bool:
        """Whether this process may ask; else another one does, and its reply is to be waited for."""
        return await self._done(lambda connection: self._claim(connection, request.key))

    async def keep(self, request: Request, reply: Reply, cost: float | None) -> None:
        """Returns when the reply is on disk; its claim is given back with it."""
        await self._done(lambda connection: self._keep(connection, request, reply, cost))

    async def note_failure(
        self, request: Request, failure: NoReplyError, prompt_tokens: int, completion_tokens: int, cost: float | None
    ) -> None:
        """Counts a failure; it is never served as a reply."""
        row = (
            *(request.key, request.role, request.model, failure.reason.value, failure.detail, failure.said),
            *(prompt_tokens, completion_tokens, cost, time.time()),
        )
        await self._done(
            lambda connection: connection.execute("INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        )

    async def give_back(self, request: Request) -> None:
        """Ends a claim that led to no reply."""
        await self._done(
            lambda connection: connection.execute(
                "DELETE FROM claims WHERE key = ? AND owner = ?", (request.key, self._owner)
            )
        )

    # Batches

    async def note_batch(self, name: str, server: str, model: str, state: str, batch_id: str | None = None) -> None:
        """Remembers how far a batch is. `name` is this project's, `batch_id` the server's."""
        await self._done(
            lambda connection: connection.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "id = coalesce(excluded.id, id), state = excluded.state, at = excluded.at",
                (name, server, model, batch_id, state, time.time()),
            )
        )

    def batches(self, state: str | None = None) -> list[dict[str, Any]]:
        """All batches, or those in one state, the oldest first: name, server, model, id, state, at."""
        found = self._connection().execute(
            "SELECT name, server, model, id, state, at FROM batches WHERE ? IS NULL OR state = ? ORDER BY at",
            (state, state),
        )
        names = ("name", "server", "model", "id", "state", "at")
        return [dict(zip(names, row, strict=True)) for row in found]

    # Looking after it

    def spent(self) -> list[Spent]:
        """What each model has cost each role, in all runs."""
        self._do(self._count_hits).result()
        rows = self._connection().execute(
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
        return list(self._connection().execute(query))

    def size(self) -> int:
        """Bytes on disk."""
        beside = (self.path.with_name(self.path.name + ending) for ending in ("", "-wal"))
        return sum(path.stat().st_size for path in beside if path.exists())

    def entries(self, role: str | None = None, model: str | None = None) -> Iterator[dict[str, Any]]:
        """The replies with their requests, the oldest first."""
        names = ("key", "role", "model", "request", "reply", "prompt_tokens", "completion_tokens", "cost", "at")
        rows = self._connection().execute(
            "SELECT key, role, model, asked, text, prompt_tokens, completion_tokens, cost, at FROM replies "
            "WHERE (? IS NULL OR role = ?) AND (? IS NULL OR model = ?) ORDER BY at, key",
            (role, role, model, model),
        )
        for key, who, by, asked, *rest in rows:
            yield dict(zip(names, (key, who, by, json.loads(zlib.decompress(asked)), *rest), strict=True))

    def drop(self, role: str | None = None, model: str | None = None, keys: Sequence[str] = ()) -> int:
        """Forgets replies, to ask again; how many. With no condition, all of them."""

        def forget(connection: sqlite3.Connection) -> int:
            condition, values = "(? IS NULL OR role = ?) AND (? IS NULL OR model = ?)", (role, role, model, model)
            if not keys:
                return connection.execute(f"DELETE FROM replies WHERE {condition}", values).rowcount
            return sum(
                connection.execute(f"DELETE FROM replies WHERE key = ? AND {condition}", (key, *values)).rowcount
                for key in keys
            )

        dropped: int = self._do(forget).result()
        with closing(self._connect()) as connection:
            connection.execute("VACUUM")
        return dropped

    # The file

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns
        return connection

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._reading, "connection"):
            self._reading.connection = self._connect()
        connection: sqlite3.Connection = self._reading.connection
        return connection

    def _do(self, task: Callable[[sqlite3.Connection], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._tasks.put((task, future))
        return future

    async def _done(self, task: Callable[[sqlite3.Connection], Any]) -> Any:
        # Whoever waits may be cancelled; what was paid for is written all the same.
        return await asyncio.shield(asyncio.wrap_future(self._do(task)))

    def _write(self) -> None:
        """Carries out what is queued, all of it in one commit, and only then says that it is done."""
        with closing(self._connect()) as connection:
            while True:
                tasks = [self._tasks.get()]
                with suppress(queue.Empty):
                    while tasks[-1] is not None:
                        tasks.append(self._tasks.get_nowait())
                self._commit(connection, [task for task in tasks if task is not None])
                if tasks[-1] is None:
                    return

    def _commit(self, connection: sqlite3.Connection, tasks: Sequence[_Task]) -> None:
        if not tasks:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [task(connection) for task, _ in tasks]
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            for _, future in tasks:
                future.set_exception(error)
            return
        for (_, future), result in zip(tasks, results, strict=True):
            future.set_result(result)

    def _keep(self, connection: sqlite3.Connection, request: Request, reply: Reply, cost: float | None) -> None:
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
        if connection.execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", (key, self._owner)).rowcount:
            return True
        (owner,) = connection.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
        if owner == self._owner or not self._is_alive(owner):
            connection.execute("UPDATE claims SET owner = ? WHERE key = ?", (self._owner, key))
            return True
        return False

    def _is_alive(self, owner: str) -> bool:
        path = self._locks / owner
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
        path.unlink(missing_ok=True)
        return False

    def _bury_the_dead(self, connection: sqlite3.Connection) -> None:
        alive = {self._owner} | {path.name for path in self._locks.iterdir() if self._is_alive(path.name)}
        for (owner,) in connection.execute("SELECT DISTINCT owner FROM claims").fetchall():
            if owner not in alive:
                connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def _count_hits(self, connection: sqlite3.Connection) -> None:
        hits, self._hits = self._hits, {}
        for (role, model), n in hits.items():
            connection.execute(
                "INSERT INTO hits VALUES (?, ?, ?) ON CONFLICT (role, model) DO UPDATE SET n = n + excluded.n",
                (role, model, n),
            )


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.strip().split(";\n"):
        connection.execute(statement)
