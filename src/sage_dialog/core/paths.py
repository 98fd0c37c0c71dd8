"""Paths as users read them, and their places in another folder."""

from __future__ import annotations

from pathlib import Path, PurePath


def display_path(path: str | PurePath) -> Path:
    """Return a path relative to the working directory where it is inside, else unchanged."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def relocate(path: str | PurePath, current: Path, other: Path) -> Path:
    """Return the place under `other` of a path under `current`; of a path outside `current`, its name under `other`."""
    path = Path(path)
    return other / (path.relative_to(current) if path.is_relative_to(current) else path.name)
