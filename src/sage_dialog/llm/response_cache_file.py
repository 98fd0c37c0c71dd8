"""The response cache's SQLite file: its tables, its writer thread, and the locks of the processes that use it."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

_TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY, role TEXT NOT NULL, model TEXT NOT NULL, request BLOB NOT NULL, text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL, seconds REAL NOT NULL,
    created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    text TEXT, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost REAL, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS hits (
    role TEXT NOT NULL, model TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (role, model));
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY, server TEXT NOT NULL, model TEXT NOT NULL, id TEXT, state TEXT NOT NULL,
    updated_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS batch_requests (key TEXT PRIMARY KEY, name TEXT NOT NULL, request BLOB NOT NULL);
"""
_BUSY_TIMEOUT_S = 60  # limit on the wait for another process's transaction
_FORMAT = 0x53414A32  # SQLite's application_id of a response cache with these tables

Result = TypeVar("Result")
_Future = Future[Any] | asyncio.Future[Any]
_Task = tuple[Callable[[sqlite3.Connection], Any], _Future]
_Outcome = tuple[_Future, Any, BaseException | None]  # result or error


class ResponseCacheError(ValueError):
    """The response cache cannot be read or written."""


class ResponseCacheFile:
    """The SQLite file. One thread writes, many tasks in a commit; any thread reads.

    A process holds a lock for its lifetime: the claims of a killed process are free for others.

    Raises:
        ResponseCacheError: if the file is damaged, no response cache, or read-only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # One process at a time: SQLite does not wait for another one that switches to WAL.
            lock = FileLock(path.with_name(f"{path.name}.lock"), poll_interval=0.005)
            with lock, closing(self.connect()) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                _make_tables(connection)
        except sqlite3.Error as error:
            raise self.error(error) from error
        self._locks = path.with_name(f"{path.name}.owners")
        self._locks.mkdir(exist_ok=True)
        self.owner = uuid.uuid4().hex
        self._lock = FileLock(self._locks / self.owner)
        self._lock.acquire()
        self._thread = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="response cache", daemon=True)
        self._writer.start()
        self.submit(self._release_claims_of_dead_processes).result()

    def close(self) -> None:
        """Finish all submitted tasks and close the file."""
        self._tasks.put(None)
        self._writer.join()
        for reader in self._readers:  # of all threads; one that lives on would keep its connection open
            reader.close()
        self._lock.release()
        (self._locks / self.owner).unlink(missing_ok=True)

    @property
    def is_open(self) -> bool:
        return self._writer.is_alive()

    def connect(self) -> sqlite3.Connection:
        """Return a new connection."""
        connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on disk
        return connection

    def read(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a query on this thread's connection."""
        try:
            if not hasattr(self._thread, "connection"):
                self._thread.connection = self.connect()
                self._readers.append(self._thread.connection)
            cursor: sqlite3.Cursor = self._thread.connection.execute(query, values)
        except sqlite3.Error as error:
            raise self.error(error) from error
        return cursor

    def submit(self, task: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        """Queue a task that writes; its result is set once it is on disk."""
        future: Future[Result] = Future()
        self._put(task, future)
        return future

    async def write(self, task: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run a task that writes and return its result once it is on disk. A cancellation does not undo it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._put(task, future)
        return await future

    def _put(self, task: Callable[[sqlite3.Connection], Any], future: _Future) -> None:
        if not self.is_open:
            raise ResponseCacheError(f"the response cache {self.path} is closed")
        self._tasks.put((task, future))

    def _write(self) -> None:
        """Run the queued tasks, all in one commit, and set their results after it."""
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
        try:
            connection.execute("BEGIN IMMEDIATE")
            results = [task(connection) for task, _ in tasks]
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if len(tasks) > 1:  # one failing task must not undo the others
                for task in tasks:
                    self._commit(connection, [task])
            else:
                failure = self.error(error) if isinstance(error, sqlite3.Error) else error
                _finish([(tasks[0][1], None, failure)])
            return
        _finish([(future, result, None) for (_, future), result in zip(tasks, results, strict=True)])

    def is_alive(self, owner: str) -> bool:
        """Return whether the process with this owner id still runs."""
        path = self._locks / owner
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)  # under the lock: its owner may be about to lock it
        except Timeout:
            return True
        return False

    def _release_claims_of_dead_processes(self, connection: sqlite3.Connection) -> None:
        alive = {self.owner} | {path.name for path in self._locks.iterdir() if self.is_alive(path.name)}
        for (owner,) in connection.execute("SELECT DISTINCT owner FROM claims").fetchall():
            if owner not in alive:
                connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def error(self, error: sqlite3.Error) -> ResponseCacheError:
        """Convert an error of SQLite."""
        return ResponseCacheError(
            f"the response cache {self.path} cannot be used: {error}. If it is damaged or no response cache, move it "
            "away with the files beside it, or name another file as llm.response_cache; lost responses are requested "
            "again."
        )


def _finish(outcomes: Iterable[_Outcome]) -> None:
    """Set the outcomes of futures; an event loop is woken once for all of its own."""
    of_loops: defaultdict[asyncio.AbstractEventLoop, list[_Outcome]] = defaultdict(list)
    for outcome in outcomes:
        future = outcome[0]
        if isinstance(future, asyncio.Future):
            of_loops[future.get_loop()].append(outcome)
        else:
            _set([outcome])
    for loop, own in of_loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set, own)


def _set(outcomes: Iterable[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and application_id != _FORMAT:
        raise sqlite3.DatabaseError("it holds other tables than a response cache of this version")
    for statement in _TABLES.strip().split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_FORMAT}")
    connection.execute("COMMIT")
