"""The text of .zst, .bz2, .xz, .gz and plain files, streamed; a damaged or cut archive is noticed."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Literal, NamedTuple, Protocol

import numpy as np

SUFFIXES = (".zst", ".bz2", ".xz", ".gz")

# Pushshift compresses with `zstd --long=31`; a reader that allows less refuses the file.
ZSTD_WINDOW = 2**31
_BLOCK = 1 << 20
_READ = 1 << 18
# Compressed bytes uncompressed at a time. Small, as those of a file that repeats itself can be ten thousand times as
# much text, and as nothing is known of the piece in which a damage is met; larger ones are no faster.
_PIECE = 1 << 12
_PIECE_OF_TEXT = 1 << 20  # what a piece comes to, and hardly ever more


class DamagedFileError(Exception):
    """An archive that breaks off or holds what its format does not allow."""


class File(Protocol):
    """What is read of a `pathlib.Path`; also a `UPath`, or what stands in an archive. `str()` names it in errors."""

    @property
    def suffix(self) -> str: ...

    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


class _Format(NamedTuple):
    """A file is one frame behind the other.

    `start` makes the decompressor of one, with `decompress(bytes)`, `eof` and `unused_data`; `damage` is what it
    raises; `padding` may stand between and behind frames.
    """

    start: Callable[[], Any]
    damage: type[Exception]
    padding: bytes = b""


def read_blocks(path: File, size: int, progress: Callable[[int], object] | None = None) -> Iterator[memoryview]:
    """The text of a file, uncompressed by its suffix, in blocks that end where a line ends.

    Args:
        path: a local path, one of another file system (a `UPath`), or another `File`.
        size: about how many bytes of text make a block. A line is never cut: a longer line makes a longer block.
        progress: told how many more bytes of the file, as it lies there, have been read.

    Yields:
        Blocks that are not empty. Each ends in a newline; the last one as the file does.

    Raises:
        DamagedFileError: naming the file, after the lines that are whole before the damage: of a file that was cut
            off, all of them; of one with wrong bytes in it, those up to 4 KiB (compressed) before these are noticed.
        OSError: or what else the file system raises, if the file is not there or may not be read.
    """
    block, end = np.empty(size + _PIECE_OF_TEXT, np.uint8), 0
    try:
        for text in _text(path, progress):
            start, end = end, end + len(text)
            if end > len(block):
                block = np.concatenate([block[:start], np.empty(len(text), np.uint8)])
            block[start:end] = np.frombuffer(text, np.uint8)
            if end >= size and (cut := text.rfind(b"\n") + 1):
                yield block[: start + cut].data
                rest = text[cut:]
                end = len(rest)
                block = np.empty(max(size, end) + _PIECE_OF_TEXT, np.uint8)  # the one before is its receiver's
                block[:end] = np.frombuffer(rest, np.uint8)
    except DamagedFileError:
        if cut := block[:end].tobytes().rfind(b"\n") + 1:
            yield block[:cut].data
        raise
    if end:
        yield block[:end].data


def read_lines(path: File) -> Iterator[bytes]:
    """The lines of a file, uncompressed by its suffix, each with its newline; raises as `read_blocks` does."""
    for block in read_blocks(path, _BLOCK):
        yield from io.BytesIO(block)


def _text(path: File, progress: Callable[[int], object] | None) -> Iterator[bytes]:
    """Consecutive pieces of the text, up to the damage if there is one."""
    form = _format(path.suffix)
    with path.open("rb") as file:
        raw = _raw(file, progress)
        yield from raw if form is None else _uncompressed(path, raw, form)


def _raw(file: IO[bytes], progress: Callable[[int], object] | None) -> Iterator[bytes]:
    while read := file.read(_READ):
        if progress is not None:
            progress(len(read))
        yield read


def _uncompressed(path: File, raw: Iterator[bytes], form: _Format) -> Iterator[bytes]:
    frame, empty = None, True
    for piece in (read[at : at + _PIECE] for read in raw for at in range(0, len(read), _PIECE)):
        empty = False
        rest = piece
        while rest := rest if frame else rest.lstrip(form.padding):
            frame = frame or form.start()
            try:
                text = frame.decompress(rest)
            except (form.damage, EOFError) as error:
                raise DamagedFileError(f"{path} breaks off: {error}") from error
            if text:
                yield text
            rest, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame or empty:
        raise DamagedFileError(f"{path} breaks off: " + ("it is empty" if empty else "it ends inside a frame"))


def _format(suffix: str) -> _Format | None:
    match suffix:
        case ".zst":
            import zstandard

            # Its stream reader would take a frame that is cut for a whole one; a decompressor object knows.
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
