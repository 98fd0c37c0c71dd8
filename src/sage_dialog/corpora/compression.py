"""Lines of .zst, .bz2, .xz, .gz and plain files, streamed; a damaged or cut archive is noticed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

SUFFIXES = (".zst", ".bz2", ".xz", ".gz")

# Pushshift compresses with `zstd --long=31`; a reader that allows less refuses the file.
ZSTD_WINDOW = 2**31
_CHUNK = 1 << 17


class DamagedFileError(Exception):
    """An archive that breaks off or holds what its format does not allow."""


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, uncompressed by its suffix, each with its newline.

    Raises:
        DamagedFileError: naming the file, after the lines that could be read.
        OSError: if the file is not there or may not be read.
    """
    try:
        with _open(path) as file:
            yield from file
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, not the decompressor's
        raise DamagedFileError(f"{path} breaks off: {error}") from error


def _open(path: Path) -> IO[bytes]:
    match path.suffix:
        case ".zst":
            return cast(IO[bytes], io.BufferedReader(_ZstdFile(path), buffer_size=_CHUNK))
        case ".bz2":
            return cast(IO[bytes], bz2.open(path, "rb"))
        case ".xz":
            return cast(IO[bytes], lzma.open(path, "rb"))
        case ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        case _:
            return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """A .zst file of one or more frames.

    zstandard's own stream reader takes a truncated frame for a whole one; this one raises EOFError.
    """

    def __init__(self, path: Path) -> None:
        import zstandard

        self._file = path.open("rb")
        self._damage = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._frame: Any = None
        self._compressed = b""
        self._text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._text:
            if not self._compressed:
                self._compressed = self._file.read(_CHUNK)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            try:
                self._text = memoryview(self._frame.decompress(self._compressed))
            except self._damage as error:
                raise OSError(str(error)) from error
            self._compressed = b""
            if self._frame.eof:
                self._compressed, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
