"""What a run stands on beside its data: the repository, the packages, the machine."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from sage_dialog.lineage.records import Git

_PATIENCE_S = 10.0
_PROJECT = "sage-dialog"


def git_of(folder: Path) -> Git | None:
    """The revision that a folder's repository is at, and what differs from it; None where git cannot tell."""
    command = ["git", "status", "--porcelain=v2", "--branch", "-z", "--no-renames", "--", "."]
    try:
        said = subprocess.run(command, cwd=folder, capture_output=True, timeout=_PATIENCE_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    revision, changed = "", []
    for line in said.decode("utf-8", "replace").split("\0"):
        kind, _, rest = line.partition(" ")
        if kind == "#" and rest.startswith("branch.oid "):
            revision = rest.removeprefix("branch.oid ")
        elif kind == "?":
            changed.append(rest)
        elif kind in ("1", "u"):
            changed.append(rest.split(" ", 7 if kind == "1" else 9)[-1])
    return Git(revision=revision, changed=tuple(sorted(changed)))


@cache
def packages() -> dict[str, str]:
    """Versions of what the project asks for by name, without extras, and of the project itself."""
    try:
        asked = [line for line in metadata.requires(_PROJECT) or () if "extra ==" not in line]
    except metadata.PackageNotFoundError:  # run from its folder, not installed
        return {}
    found = {}
    for line in [_PROJECT, *asked]:
        name = re.match(r"[\w.-]+", line)[0].lower()  # type: ignore[index]
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def python() -> str:
    """Of the interpreter."""
    return platform.python_version()


@cache
def machine() -> str:
    """System, processor and C library."""
    return platform.platform()
