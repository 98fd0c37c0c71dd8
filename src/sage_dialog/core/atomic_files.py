"""Files and folders that appear only when complete, also when the process is killed while it writes."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; it becomes `target` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    partial = _own_path(target, "partial")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    _flush(target.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` to fill; it replaces `target` when the block ends without an error.

    An existing folder is moved aside first, and back if the second move fails. A kill between the two moves leaves no
    `target`, never an incomplete one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    partial, previous = _own_path(target, "partial"), _own_path(target, "previous")
    partial.mkdir()
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _flush(path)
        if target.exists():
            os.replace(target, previous)
        os.replace(partial, target)
    finally:
        if previous.exists() and not target.exists():
            os.replace(previous, target)
        for leftover in (partial, previous):
            shutil.rmtree(leftover, ignore_errors=True)
    _flush(target.parent)


def _own_path(target: Path, suffix: str) -> Path:
    """Return a path beside `target` that no other process writes to, those on other hosts included."""
    return target.with_name(f".{target.name}.{socket.gethostname()}-{os.getpid()}.{suffix}")


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes of this host left beside `target`."""
    prefix = f".{target.name}.{socket.gethostname()}-"
    for name in [name for name in os.listdir(target.parent) if name.startswith(prefix)]:
        pid, _, suffix = name.removeprefix(prefix).partition(".")
        if pid.isdecimal() and suffix in ("partial", "previous") and _is_gone(int(pid)):
            path = target.with_name(name)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_gone(pid: int) -> bool:
    return pid == os.getpid() or not psutil.pid_exists(pid)  # a container restarts with the same ids


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
