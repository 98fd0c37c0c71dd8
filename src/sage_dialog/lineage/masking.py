"""Masking of secrets in configuration and messages, by the names they are stored under and by their values."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

MASK = "(secret "
"""The beginning of every masked value."""

_SECRET_NAME = re.compile(
    r"(?:.*[_-]|(?-i:.*[a-z](?=[A-Z])))?"
    r"(?:key|api_?keys?|secrets?|passwords?|passwd|passphrase|token|credentials?|authorization)",
    re.IGNORECASE,
)
_URL_LOGIN = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_MIN_CHARACTERS = 8  # a shorter secret, such as the `none` of a server without keys, occurs in ordinary texts


def mask_secrets(value: Any, secrets: Collection[str] = (), name: str = "") -> Any:
    """Return a configuration tree with secrets replaced by digests, so that a change of a secret stays visible.

    Args:
        value: the tree; the result holds only what JSON has.
        secrets: texts that are masked wherever they occur; values under names such as `api_key` always are.
        name: the name that `value` is stored under.
    """
    if isinstance(value, Mapping):
        secret = name if _SECRET_NAME.fullmatch(name) else ""
        return {str(key): mask_secrets(inner, secrets, secret or str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_secrets(inner, secrets, name) for inner in value]
    if type(value) is int and _SECRET_NAME.fullmatch(name) and len(str(value)) >= _MIN_CHARACTERS:
        value = str(value)
    if not isinstance(value, str):
        return value if isinstance(value, int | float | bool | None) else str(value)
    if value and (
        _SECRET_NAME.fullmatch(name)
        or _URL_LOGIN.search(value)
        or any(secret in value for secret in secrets if len(secret) >= _MIN_CHARACTERS)
    ):
        return f"{MASK}{hashlib.sha256(value.encode()).hexdigest()[:12]})"
    return value


def redact(text: str, secrets: Collection[str]) -> str:
    """Return a message without any of the secrets and without logins in URLs."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_CHARACTERS:
            text = text.replace(secret, "…")
    return _URL_LOGIN.sub("…", text)


def nested_texts(value: Any) -> Iterator[str]:
    """Yield the texts of nested mappings and lists, such as credentials."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from nested_texts(inner)


def secrets_in(config: Any) -> Iterator[str]:
    """Yield the texts of a configuration tree that are stored under names of secrets."""
    if isinstance(config, Mapping):
        for name, inner in config.items():
            yield from nested_texts(inner) if _SECRET_NAME.fullmatch(str(name)) else secrets_in(inner)
    elif isinstance(config, list | tuple):
        for inner in config:
            yield from secrets_in(inner)


def environment_secrets() -> set[str]:
    """Return the values of environment variables that are named like secrets."""
    return {value for name, value in os.environ.items() if value and _SECRET_NAME.fullmatch(name)}
