"""Streamed text of .zst, .bz2, .xz, .gz and plain files; damaged and truncated archives are detected."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Literal, NamedTuple, Protocol

import numpy as np
import zstandard

SUFFIXES = (".zst", ".bz2", ".xz", ".gz")

# Pushshift compresses with `zstd --long=31`; a smaller window cannot read its files.
ZSTD_WINDOW = 2**31
_BLOCK = 1 << 20
_READ = 1 << 18
# Compressed bytes decompressed at a time. Small, since repetitive text compresses ten-thousandfold, and since a damaged
# piece is lost as a whole; larger pieces are no faster.
_PIECE = 1 << 12
_PIECE_OF_TEXT = 1 << 20  # decompressed bytes of a piece, rarely exceeded


class DamagedFileError(Exception):
    """An archive that is truncated or violates its format.

    Attributes:
        unread: share of its compressed bytes from the damage on; None if it ends too early, since how much is missing
            is then unknown.
    """

    def __init__(self, message: str, unread: float | None = None) -> None:
        super().__init__(message)
        self.unread = unread


class File(Protocol):
    """The part of `pathlib.Path` that readers use, also of a `UPath` or a member of an archive."""

    @property
    def suffix(self) -> str: ...

    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


class _Format(NamedTuple):
    """A format of consecutive frames.

    `start` returns the decompressor of a frame, with `decompress(bytes)`, `eof` and `unused_data`; `damage` is the
    exception that it raises; `padding` may follow a frame.
    """

    start: Callable[[], Any]
    damage: type[Exception]
    padding: bytes = b""


def read_blocks(
    path: File, size: int, progress: Callable[[int], object] | None = None, max_line: int | None = None
) -> Iterator[memoryview]:
    """Yield the text of a file, decompressed by its suffix, in blocks of complete lines.

    Args:
        path: a local path, a `UPath`, or another `File`.
        size: approximate bytes of a block; a longer line makes a longer block.
        progress: called with the number of bytes of the file read since the last call.
        max_line: bytes of a line from which the file counts as damaged; None reads lines of any length.

    Yields:
        Non-empty blocks. Each ends in a newline, the last one as the file does.

    Raises:
        DamagedFileError: after the complete lines before the damage. Of a truncated file these are all lines; of a
            corrupted one, those up to 4 KiB (compressed) before the corruption.
        OSError: if the file is missing or not readable; other file systems may raise other errors.
    """
    block, end = np.empty(size + _PIECE_OF_TEXT, np.uint8), 0
    try:
        for text in _text(path, progress):
            start, end = end, end + len(text)
            if end > len(block):
                block = np.concatenate([block[:start], np.empty(max(start, len(text)), np.uint8)])
            block[start:end] = np.frombuffer(text, np.uint8)
            if end >= size and (cut := text.rfind(b"\n") + 1):
                yield block[: start + cut].data
                rest = text[cut:]
                end = len(rest)
                block = np.empty(max(size, end) + _PIECE_OF_TEXT, np.uint8)  # the caller owns the last one
                block[:end] = np.frombuffer(rest, np.uint8)
            if max_line is not None and end > size + max_line:
                raise DamagedFileError(f"{path} breaks off: a line has more than {max_line:,} bytes")
    except DamagedFileError:
        if cut := block[:end].tobytes().rfind(b"\n") + 1:
            yield block[:cut].data
        raise
    if end:
        yield block[:end].data


def read_lines(path: File) -> Iterator[bytes]:
    """Yield the lines of a file, decompressed by its suffix, with their newlines; raises as `read_blocks` does."""
    for block in read_blocks(path, _BLOCK):
        yield from io.BytesIO(block)


def _text(path: File, progress: Callable[[int], object] | None) -> Iterator[bytes]:
    """Yield consecutive pieces of the text, up to a damage."""
    form = _format(path.suffix)
    with path.open("rb") as file:
        raw = _raw(file, progress)
        yield from raw if form is None else _decompress(path, file, raw, form)


def _raw(file: IO[bytes], progress: Callable[[int], object] | None) -> Iterator[bytes]:
    while read := file.read(_READ):
        if progress is not None:
            progress(len(read))
        yield read


def _decompress(path: File, file: IO[bytes], raw: Iterator[bytes], form: _Format) -> Iterator[bytes]:
    frame, done = None, 0
    for piece in (read[at : at + _PIECE] for read in raw for at in range(0, len(read), _PIECE)):
        rest = piece
        while rest := rest if frame else rest.lstrip(form.padding):
            frame = frame or form.start()
            try:
                text = frame.decompress(rest)
            except (form.damage, EOFError) as error:
                size = file.seek(0, io.SEEK_END)
                unread = size - done - len(piece) + len(rest)
                raise DamagedFileError(
                    f"{path} breaks off: {error}; {unread:,} of its {size:,} compressed bytes are unread "
                    f"({_percent(unread / size)})",
                    unread / size,
                ) from error
            if text:
                yield text
            rest, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        done += len(piece)
    if frame or not done:
        end = "it ends inside a frame; how much is missing is unknown" if done else "it is empty"
        raise DamagedFileError(f"{path} breaks off: {end}")


def _percent(share: float) -> str:
    """Return a share as text; only an exact 0 or 1 is 0 or 100 %."""
    return f"{100 * share:.0f} %" if share in (0, 1) else f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def _format(suffix: str) -> _Format | None:
    match suffix:
        case ".zst":
            # Not its stream reader, which does not detect a truncated frame.
            zstd = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
            return _Format(zstd.decompressobj, zstandard.ZstdError)
        case ".bz2":
            return _Format(bz2.BZ2Decompressor, OSError)
        case ".xz":
            return _Format(lzma.LZMADecompressor, lzma.LZMAError, padding=b"\0")
        case ".gz" | ".tgz":
            return _Format(lambda: zlib.decompressobj(wbits=31), zlib.error, padding=b"\0")
        case _:
            return None
