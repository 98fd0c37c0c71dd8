"""Fingerprints of inputs and code, by which unfinished work is found and resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping

import sage_dialog


def fingerprint(inputs: Mapping[str, object], *sources: str) -> str:
    """Return 20 hexadecimal digits that change with the inputs or the code.

    Args:
        inputs: JSON values.
        sources: files and folders of the package that do the work; all of the package where none is given.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    package = os.path.dirname(sage_dialog.__file__)
    for source in sorted(sources) or ["."]:
        for path in sorted(_files(os.path.join(package, source))):
            with open(path, "rb") as file:  # code, word lists and templates
                digest.update(os.path.relpath(path, package).encode() + file.read())
    return digest.hexdigest()[:20]


def _files(source: str) -> Iterator[str]:
    if os.path.isfile(source):
        yield source
    for path, _, names in os.walk(source):
        yield from (os.path.join(path, name) for name in names if not name.endswith(".pyc"))
