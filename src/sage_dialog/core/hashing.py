"""Names for unfinished work, so that it is taken up again by the same work only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping

import sage_dialog


def fingerprint(inputs: Mapping[str, object], *rooms: str) -> str:
    """A name for the inputs (anything JSON can write) under this very code.

    `rooms` are the files and folders of the package that do the work; none named means all of it.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    package = os.path.dirname(sage_dialog.__file__)
    for room in sorted(rooms) or ["."]:
        path = os.path.join(package, room)
        for source in sorted(_files(path)):
            with open(source, "rb") as file:  # code, and the word lists and templates beside it
                digest.update(os.path.relpath(source, package).encode() + file.read())
    return digest.hexdigest()[:20]


def _files(room: str) -> Iterator[str]:
    if os.path.isfile(room):
        yield room
    for path, _, names in os.walk(room):
        yield from (os.path.join(path, name) for name in names if not name.endswith(".pyc"))
