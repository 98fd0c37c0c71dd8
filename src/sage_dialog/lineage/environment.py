"""The environment of a run: repository and packages."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from sage_dialog.lineage.records import Git

_TIMEOUT_S = 10.0


def git_state(folder: Path) -> Git | None:
    """Return the revision of a folder's repository and the changed files in it; None outside a repository."""
    try:
        revision = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain", "-z", "--no-renames", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return None
    return Git(revision=revision, changed=tuple(sorted(line[3:] for line in changed.split("\0") if line)))


@cache
def package_versions(distribution: str) -> dict[str, str]:
    """Return the versions of a distribution and of the packages it requires, without extras; none if not installed."""
    try:
        required = [line for line in metadata.requires(distribution) or () if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return {}
    versions = {}
    for line in [distribution, *required]:
        name = re.match(r"[\w.-]+", line)[0].lower()  # type: ignore[index]
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=_TIMEOUT_S, check=True)
    return done.stdout.decode("utf-8", "replace")
