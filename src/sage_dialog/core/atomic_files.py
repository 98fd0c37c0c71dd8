"""Files and folders that appear only when complete, also when the process is killed while it writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; it becomes `target` when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
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
    partial, previous = (target.with_name(f".{target.name}.{suffix}") for suffix in ("partial", "previous"))
    for leftover in (partial, previous):
        shutil.rmtree(leftover, ignore_errors=True)
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


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
