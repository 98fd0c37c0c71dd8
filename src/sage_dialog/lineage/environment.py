"""The environment of a run: repository, packages, hardware."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from sage_dialog.lineage.records import Git, Hardware

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


@cache
def installed_extras(distribution: str) -> tuple[str, ...]:
    """Return the extras of a distribution of which every package is installed."""
    try:
        required = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return ()
    packages: dict[str, list[str]] = {}
    for line in required:
        if extra := re.search(r"""extra == ["']([\w.-]+)["']""", line):
            packages.setdefault(extra[1], []).append(re.match(r"[\w.-]+", line)[0])  # type: ignore[index]
    return tuple(sorted(extra for extra, names in packages.items() if all(map(_is_installed, names))))


def _is_installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def hardware() -> Hardware | None:
    """Return the threads, device and driver of torch in this process; None if torch was not imported."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return None
    threads = int(torch.get_num_threads())
    if not torch.cuda.is_available():
        return Hardware(threads=threads, device=_processor())
    names, driver = _gpus()
    count = int(torch.cuda.device_count())
    name = names[0] if names else "GPU"
    return Hardware(threads=threads, device=name if count == 1 else f"{count} x {name}", driver=driver)


@cache
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def _gpus() -> tuple[list[str], str | None]:
    """Return the names of the GPUs and the version of their driver, as nvidia-smi has them."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return [], None
    rows = [line.rpartition(",") for line in done.stdout.splitlines() if "," in line]
    return [name.strip() for name, _, _ in rows], next((driver.strip() for _, _, driver in rows), None)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=_TIMEOUT_S, check=True)
    return done.stdout.decode("utf-8", "replace")
