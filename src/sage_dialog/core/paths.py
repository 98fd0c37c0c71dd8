"""Paths as users read them, and their places in another folder."""

from __future__ import annotations

from pathlib import Path, PurePath


def project_folder() -> Path:
    """Return the folder with the project's `conf`: of the source tree, or with a wheel the working directory."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def display_path(path: str | PurePath) -> Path:
    """Return a path relative to the working directory where it is inside, else unchanged."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def relocate(path: str | PurePath, current: Path, other: Path) -> Path:
    """Return the place under `other` of a path under `current`; of a path outside `current`, its name under `other`."""
    path = Path(path)
    return other / (path.relative_to(current) if path.is_relative_to(current) else path.name)
