"""Names for unfinished work, so that it is taken up again by the same work only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import sage_dialog


def fingerprint(inputs: Mapping[str, object], *rooms: str) -> str:
    """A name for the inputs (anything JSON can write) under this very code.

    `rooms` are the files and folders of the package that do the work; none named means all of it.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    package = Path(sage_dialog.__file__).parent
    within = [package / room for room in rooms] or [package]
    for source in sorted(package.rglob("*")):  # code, and the word lists and templates beside it
        if source.is_file() and source.suffix != ".pyc" and any(source.is_relative_to(room) for room in within):
            digest.update(str(source.relative_to(package)).encode() + source.read_bytes())
    return digest.hexdigest()[:20]
