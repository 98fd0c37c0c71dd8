"""Raw data: a folder of files in their own format, dropped in by the user or made by the microworld."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import urlsplit

from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import get_protocol_and_path

from sage_dialog.core.atomic_files import atomic_folder

MADE_HERE = ".made-here.json"


class RawFolder(AbstractDataset[dict[str, bytes], dict[str, Path]]):
    """Files of one folder, by name. Not versioned: this is data from outside.

    Loading gives the paths of the files that match one of the patterns, sorted by name: of a local folder as
    `pathlib.Path`, else as `upath.UPath`, which opens them through fsspec and can be pickled. Saving, to a local
    folder only, swaps the whole folder, and refuses to replace files that this project did not write.

    Args:
        filepath: the folder: a path, or an address such as `s3://bucket/reddit`, `gs://…`, or the `https://…` of a
            page that links to the files.
        patterns: file name patterns such as `RC_*`; each must match a file. `*.json|*.parquet` is one of both.
        made_by: the command that fills a local folder with generated data.
        archives: file name patterns such as `*.tar.gz`; where one matches, `patterns` need not: it may hold them.
        optional: there need be no files at all.
        credentials: keyword arguments of the fsspec file system that nobody is to see.
        fs_args: other keyword arguments of it.
    """

    def __init__(
        self,
        *,
        filepath: str,
        patterns: list[str],
        made_by: str,
        archives: list[str] | None = None,
        optional: bool = False,
        credentials: dict[str, Any] | None = None,
        fs_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if unknown := sorted({"open_args_load", "open_args_save"} & set(fs_args or {})):
            raise DatasetError(f"Files are opened by who reads them: fs_args cannot have {' or '.join(unknown)} here.")
        if urlsplit(filepath).password:
            raise DatasetError("A filepath must not hold a password; give it as `credentials`, from credentials.yml.")
        protocol, path = get_protocol_and_path(filepath)
        self._local = protocol == "file"
        self._secrets = sorted(_texts(credentials), key=len, reverse=True)
        self.folder = Path(path) if self._local else _remote(filepath, {**(fs_args or {}), **(credentials or {})})
        self.patterns = tuple(patterns)
        self.archives = tuple(archives or ())
        self._optional = optional
        self.made_by = made_by
        self.metadata = metadata

    def load(self) -> dict[str, Path]:
        files = self._files()
        if absent := self._absent(files):
            raise DatasetError(self._missing(absent))
        return files

    def save(self, data: dict[str, bytes]) -> None:
        if not self._local:
            raise DatasetError(
                f"{self.folder} is no local folder, and generated data is written to local ones only. Name one as the "
                "`filepath` of this catalog entry, or leave out the pipeline that writes it."
            )
        if unmatched := [name for name in data if PurePosixPath(name).name != name or not self._wanted(name)]:
            raise DatasetError(f"File names {unmatched} do not match {_or(self.patterns)}.")
        if foreign := self._foreign():
            raise DatasetError(
                f"{self.folder} holds files that this project did not write ({', '.join(foreign[:3])}"
                f"{', …' if len(foreign) > 3 else ''}); they are not replaced. Move them away, or keep generated data "
                "elsewhere: SAGE_DATA=another/folder kedro run …"
            )
        with atomic_folder(self.folder) as partial:
            for name, content in data.items():
                (partial / name).write_bytes(content)
            sizes = {name: len(content) for name, content in sorted(data.items())}
            (partial / MADE_HERE).write_text(json.dumps(sizes, indent=2) + "\n")

    def missing(self) -> str:
        """What to tell the person whose data is not there."""
        try:
            return self._missing(self._absent(self._files()))
        except DatasetError as error:
            return str(error)

    def _missing(self, absent: list[str]) -> str:
        generate = f", or generate some: `{self.made_by}`" if self._local else ""
        neither = f", and no archive ({_or(self.archives)})" if self.archives else ""
        nothing = " and no ".join(absent).replace("|", " or ")
        return f"there is no {nothing} in {self.folder}{neither}. Put your data there{generate}."

    def _absent(self, files: dict[str, Path]) -> list[str]:
        if self._optional or any(_matches(name, self.archives) for name in files):
            return []
        return [pattern for pattern in self.patterns if not any(_matches(name, (pattern,)) for name in files)]

    def _wanted(self, name: str) -> bool:
        return not name.startswith(".") and _matches(name, (*self.patterns, *self.archives))

    def _files(self) -> dict[str, Path]:
        return {name: self.folder / name for name in sorted(self._names()) if self._wanted(name)}

    def _names(self) -> list[str]:
        """Names of the files in the folder; a folder that is not there holds none."""
        try:
            if self._local:
                return [path.name for path in self.folder.iterdir() if path.is_file()]
            return _remote_names(self.folder)
        except FileNotFoundError:
            return []
        except Exception as error:  # of the disk, the network, the provider: each has classes of its own
            # Without the error itself, which may hold what this text leaves out.
            raise DatasetError(self._without_secrets(f"{self.folder} cannot be listed: {_told(error)}")) from None

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text

    def _foreign(self) -> list[str]:
        """Files in the folder that the last save did not write, or that have changed since."""
        if not self.folder.is_dir():
            return []
        try:
            ours = json.loads((self.folder / MADE_HERE).read_text())
        except (OSError, ValueError):
            ours = {}
        there = {str(path.relative_to(self.folder)): path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        return [
            name
            for name, path in there.items()
            if name not in {MADE_HERE, ".gitkeep"} and ours.get(name) != path.stat().st_size
        ]

    def _exists(self) -> bool:
        try:
            return not self._absent(self._files())
        except DatasetError:
            return False  # `missing` tells why

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self.folder), "patterns": self.patterns}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(PurePosixPath(name).match(each) for pattern in patterns for each in pattern.split("|"))


def _or(patterns: tuple[str, ...]) -> str:
    return " or ".join(patterns).replace("|", " or ")


def _remote(address: str, options: dict[str, Any]) -> Path:
    """A path of another file system: not a `pathlib.Path`, but with what readers use of one."""
    from upath import UPath

    return cast(Path, UPath(address, **options))


def _remote_names(folder: Any) -> list[str]:
    """One request for the whole folder, and never an answer of before."""
    folder.fs.invalidate_cache(folder.path)
    entries = folder.fs.ls(folder.path, detail=True)
    return [PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "file"]


def _texts(credentials: Any) -> Iterator[str]:
    """The texts in nested credentials that are long enough to be a secret."""
    if isinstance(credentials, str) and len(credentials) > 3:
        yield credentials
    elif isinstance(credentials, Mapping):
        for value in credentials.values():
            yield from _texts(value)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
