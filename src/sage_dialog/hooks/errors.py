"""Errors that end a `kedro` command with their message alone, without a traceback, and their texts."""

from __future__ import annotations

import errno
import re

import click

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = ("No space left on device", "StorageFull", "PytorchStreamWriter failed writing")
"""What libraries say of a full disk that raise no OSError: pyarrow, safetensors, torch."""
_FREE = "Free some, or raise the quota."
_ELSEWHERE = "Change its permissions, or set SAGE_DATA to a folder that you may write."


class RunRefused(click.ClickException):
    """A run that does not start."""


class RunStopped(click.ClickException):
    """A run that ends early and keeps its results so far."""


def format_storage_error(error: BaseException) -> str | None:
    """Return that a disk is full, or which file cannot be opened or written; None for any other error.

    Args:
        error: the error, or one that was raised from it.
    """
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None:
        chain.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    for each in chain:
        number, file = (each.errno, each.filename) if isinstance(each, OSError) else (None, None)
        if number in _FULL:
            return f"No space is left on the disk{f' for {file}' if file else ''}. {_FREE}"
        if number == errno.EROFS:
            return f"{file or 'A file'} cannot be written: its file system is read-only. {_ELSEWHERE}"
        if file and number in (errno.EACCES, errno.EPERM):
            return f"{file} cannot be opened or written: permission denied. {_ELSEWHERE}"
    if any(text in str(each) for each in chain for text in _FULL_TEXTS):
        return f"No space is left on the disk. {_FREE}"
    return None


def with_environment(message: str, env: str | None) -> str:
    """Return a message whose commands in backticks name the environment, if there is one."""
    if not env:
        return message
    message = re.sub(r"`(kedro run)(?! --env)(?=[ `])", rf"`\1 --env {env}", message)
    return re.sub(r"`(kedro sage \w+)(?! --env)(?=[ `])", rf"`\1 --env {env}", message)
