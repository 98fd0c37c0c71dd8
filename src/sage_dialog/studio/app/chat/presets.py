"""Named settings of conversations, in one file."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.studio.chat.conversation import Settings

MOST = 100
"""Presets in the file."""

_FILE = TypeAdapter(dict[str, Settings])


class Presets:
    """Settings by name; each change is on disk on return."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._read())

    def get(self, name: str) -> Settings | None:
        """Return the settings of this name; None where there are none."""
        return self._read().get(name)

    def save(self, name: str, settings: Settings) -> None:
        """Save settings under a name, in place of earlier ones. Raises ValueError without a name."""
        name = " ".join(name.split())
        if not name:
            raise ValueError("A preset needs a name.")
        presets = self._read() | {name: settings}
        if len(presets) > MOST:
            raise ValueError(f"There are {MOST} presets; delete one first.")
        self._write(presets)

    def delete(self, name: str) -> None:
        """Remove the settings of a name, if there are any."""
        self._write({each: settings for each, settings in self._read().items() if each != name})

    def _read(self) -> dict[str, Settings]:
        try:
            return _FILE.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise ValueError(f"{self._path} cannot be read: {error}. Move it away.") from error

    def _write(self, presets: dict[str, Settings]) -> None:
        content = {name: settings.model_dump(mode="json") for name, settings in sorted(presets.items())}
        try:
            with atomic_file(self._path) as partial:
                partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise ValueError(f"{self._path} is not writable: {error.strerror}.") from error
