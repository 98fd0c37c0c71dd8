"""What no record may hold: values that are secret by where they stand, wherever else they turn up."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_SECRET = re.compile(
    r"(?:.*[_-]|(?-i:.*[a-z](?=[A-Z])))?"
    r"(?:key|api_?keys?|secrets?|passwords?|passwd|passphrase|token|credentials?|authorization)",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")  # of a URL: user:password
_SHORTEST = 8  # characters; a shorter text, such as the `none` of a server without keys, stands everywhere


def masked(value: Any, secrets: Collection[str] = (), under: str = "") -> Any:
    """A configuration tree, as JSON has it, in which secrets have become digests, by which a change can be told still.

    Args:
        secrets: texts that are left out wherever they stand; so are those under names such as `api_key`.
        under: the name that `value` stands under.
    """
    if isinstance(value, Mapping):
        secret = under if _SECRET.fullmatch(under) else ""
        return {str(name): masked(inner, secrets, secret or str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner, secrets, under) for inner in value]
    if type(value) is int and _SECRET.fullmatch(under) and len(str(value)) >= _SHORTEST:  # a password of digits
        value = str(value)
    if not isinstance(value, str):
        return value if isinstance(value, int | float | bool | None) else str(value)
    if value and (
        _SECRET.fullmatch(under)
        or _LOGIN.search(value)
        or any(secret in value for secret in secrets if len(secret) >= _SHORTEST)
    ):
        return f"(secret {hashlib.sha256(value.encode()).hexdigest()[:12]})"
    return value


def without(text: str, secrets: Collection[str]) -> str:
    """A message without any of the secrets, nor the login of a URL."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, "…")
    return _LOGIN.sub("…", text)


def texts_in(value: Any) -> Iterator[str]:
    """The texts of nested credentials."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def named(value: Any) -> Iterator[str]:
    """The texts of a configuration tree that stand under names of secrets."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from texts_in(inner) if _SECRET.fullmatch(str(name)) else named(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from named(inner)


def of_environment() -> set[str]:
    """The values of environment variables that are named like secrets."""
    return {value for name, value in os.environ.items() if value and _SECRET.fullmatch(name)}
