"""The file of the reply response cache: one SQLite file, its one writer thread, and who is alive to use it."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

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
CREATE TABLE IF NOT EXISTS batch_requests (key TEXT PRIMARY KEY, name TEXT NOT NULL, asked BLOB NOT NULL);
"""
_BUSY_S = 60  # another process may hold the file for as long
_FORMAT = 0x53414A31  # SQLite's application_id of a response cache in this form

_Task = tuple[Callable[[sqlite3.Connection], Any], Future[Any]]


class ResponseCacheError(ValueError):
    """The response cache cannot be read or written."""


class ResponseCacheFile:
    """Reading is quick and done at once; writing is done by one thread, many tasks to a commit.

    A process holds a lock for as long as it lives: what it has claimed falls to the next when it is killed.

    Raises:
        ResponseCacheError: if the file is damaged or something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # One at a time: SQLite does not wait for another process that is switching to WAL, too.
            lock = FileLock(path.with_name(f"{path.name}.lock"), poll_interval=0.005)
            with lock, closing(self.connect()) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                _make_tables(connection)
        except sqlite3.Error as error:
            raise self.fault(error) from error
        self._locks = path.with_name(f"{path.name}.owners")
        self._locks.mkdir(exist_ok=True)
        self.owner = uuid.uuid4().hex
        self._lock = FileLock(self._locks / self.owner)
        self._lock.acquire()
        self._reading = threading.local()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="reply response cache", daemon=True)
        self._writer.start()
        self.do(self._bury_the_dead).result()

    def close(self) -> None:
        """Writes what is left."""
        self._tasks.put(None)
        self._writer.join()
        self._lock.release()
        (self._locks / self.owner).unlink(missing_ok=True)

    @property
    def is_open(self) -> bool:
        return self._writer.is_alive()

    def connect(self) -> sqlite3.Connection:
        """A connection of one's own."""
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns
        return connection

    def connection(self) -> sqlite3.Connection:
        """This thread's, to read with."""
        if not hasattr(self._reading, "connection"):
            self._reading.connection = self.connect()
        connection: sqlite3.Connection = self._reading.connection
        return connection

    def do(self, task: Callable[[sqlite3.Connection], Any]) -> Future[Any]:
        """Queues what is to be written; its result comes when it is on disk."""
        if not self.is_open:
            raise ResponseCacheError(f"the reply response cache {self.path} is closed")
        future: Future[Any] = Future()
        self._tasks.put((task, future))
        return future

    async def done(self, task: Callable[[sqlite3.Connection], Any]) -> Any:
        """Like `do`. Whoever waits may be cancelled; what was paid for is written all the same."""
        return await asyncio.shield(asyncio.wrap_future(self.do(task)))

    def _write(self) -> None:
        """Carries out what is queued, all of it in one commit, and only then says that it is done."""
        with closing(self.connect()) as connection:
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
            if len(tasks) > 1:  # one that cannot be done must not undo the others
                for task in tasks:
                    self._commit(connection, [task])
            else:
                tasks[0][1].set_exception(self.fault(error) if isinstance(error, sqlite3.Error) else error)
            return
        for (_, future), result in zip(tasks, results, strict=True):
            future.set_result(result)

    def is_alive(self, owner: str) -> bool:
        """Whether the process that claimed as `owner` still runs."""
        path = self._locks / owner
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)  # while it is held: its owner may only just be starting
        except Timeout:
            return True
        return False

    def _bury_the_dead(self, connection: sqlite3.Connection) -> None:
        alive = {self.owner} | {path.name for path in self._locks.iterdir() if self.is_alive(path.name)}
        for (owner,) in connection.execute("SELECT DISTINCT owner FROM claims").fetchall():
            if owner not in alive:
                connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def fault(self, error: sqlite3.Error) -> ResponseCacheError:
        """What to tell the person whose response cache it is."""
        return ResponseCacheError(
            f"the reply response cache {self.path} cannot be used: {error}. If it is damaged or no response cache, move it away with "
            "the files beside it, or name another file as llm.response_cache; replies that are lost are asked for again."
        )


def _make_tables(connection: sqlite3.Connection) -> None:
    """In a new file; in another, sees that it is a response cache."""
    connection.execute("BEGIN IMMEDIATE")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (form,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and form != _FORMAT:
        raise sqlite3.DatabaseError("it holds other tables than a response_cache's")
    for statement in _TABLES.strip().split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_FORMAT}")
    connection.execute("COMMIT")
