"""The first difference between two versions of an output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageChops

from sage_dialog.lineage.content import RUN_LINE, of_file
from sage_dialog.lineage.formatting import MAX_CHARACTERS, printable, shorten

_ROWS = 2048  # rows held in memory
_BUFFER = 1 << 20
_SHOWN_BYTES = 8


@dataclass(frozen=True)
class Difference:
    """The first difference: its place, and the value there in either version, shortened.

    Attributes:
        row: the row of a table, from 0.
        column: the column of a table.
    """

    where: str
    before: str
    after: str
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.before} before, {self.after} now"


def first_difference(before: Path, after: Path) -> Difference | None:
    """Return the first difference; None for equal rows of a table, pixels of an image, bytes of any other file.

    The line in which an HTML page names its run is left out.

    Args:
        before: a file or a folder; a local path, or one of fsspec with the same methods.
        after: the same kind of path.
    """
    if before.is_dir() or after.is_dir():
        return _compare_folders(before, after)
    with before.open("rb") as one, after.open("rb") as other:
        if of_file(one, before.name) == of_file(other, after.name):
            return None
    if before.suffix == ".parquet":
        return _compare_tables(before, after)
    if before.suffix == ".png":
        return _compare_images(before, after)
    return _compare_texts(before, after) or _compare_bytes(before, after)


def _compare_folders(before: Path, after: Path) -> Difference | None:
    files = [
        {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (before, after)
    ]
    for name in sorted({*files[0], *files[1]}):
        one, other = (side.get(name) for side in files)
        if one is None or other is None:
            states = ["missing" if path is None else "present" for path in (one, other)]
            return Difference(printable(name), states[0], states[1])
        if found := first_difference(one, other):
            return Difference(f"{printable(name)}, {found.where}", found.before, found.after, found.row, found.column)
    return None


def _compare_tables(before: Path, after: Path) -> Difference | None:
    with before.open("rb") as one, after.open("rb") as other:
        files = pq.ParquetFile(one), pq.ParquetFile(other)
        schemas = [file.schema_arrow.remove_metadata() for file in files]
        if not schemas[0].equals(schemas[1]):
            return Difference("columns", *_shorten_both(*(", ".join(f"{f.name} {f.type}" for f in s) for s in schemas)))
        for number, (left, right) in enumerate(zip(*map(_rows, files), strict=False)):
            if repr(left) == repr(right):  # by text, since NaN is not equal to itself
                continue
            column = next(name for name in left if repr(left[name]) != repr(right[name]))
            values = _shorten_both(repr(left[column]), repr(right[column]))
            return Difference(f"row {number:,}, column {column}", *values, row=number, column=column)
        counts = [file.metadata.num_rows for file in files]
    return None if counts[0] == counts[1] else Difference("rows", f"{counts[0]:,}", f"{counts[1]:,}")


def _rows(file: Any) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=_ROWS):
        yield from batch.to_pylist()


def _compare_images(before: Path, after: Path) -> Difference | None:
    with Image.open(before) as one, Image.open(after) as other:
        if one.size != other.size:
            return Difference("size in pixels", str(one.size), str(other.size))
        left, right = one.convert("RGBA"), other.convert("RGBA")
    pixels = ImageChops.difference(left, right)
    if (box := pixels.getbbox(alpha_only=False)) is None:
        return None
    row = pixels.crop((0, box[1], left.width, box[1] + 1))
    at = (row.getbbox(alpha_only=False) or box)[0], box[1]
    return Difference(f"pixel {at[0]}, {at[1]}", str(left.getpixel(at)), str(right.getpixel(at)))


def _compare_texts(before: Path, after: Path) -> Difference | None:
    """Return the first line that differs; None where a file is not text."""
    try:
        with before.open(encoding="utf-8") as one, after.open(encoding="utf-8") as other:
            for number, (left, right) in enumerate(zip_longest(one, other, fillvalue=""), 1):
                if left != right and not (left.startswith(RUN_LINE) and right.startswith(RUN_LINE)):
                    return Difference(f"line {number}", *_shorten_both(left, right))
    except UnicodeDecodeError:
        pass
    return None


def _compare_bytes(before: Path, after: Path) -> Difference:
    with before.open("rb") as one, after.open("rb") as other:
        offset = 0
        while (left := one.read(_BUFFER)) == (right := other.read(_BUFFER)):
            offset += len(left)
    start = _common_prefix(left, right)
    values = [part[start : start + _SHOWN_BYTES].hex(" ") or "the end" for part in (left, right)]
    return Difference(f"byte {offset + start:,}", values[0], values[1])


def _shorten_both(before: str, after: str) -> tuple[str, str]:
    """Return two texts on one line each; long ones from shortly before their first difference."""
    before, after = before.rstrip("\n"), after.rstrip("\n")
    if max(len(before), len(after)) > MAX_CHARACTERS:
        start = max(0, _common_prefix(before, after) - 20)
        if start:
            before, after = f"…{before[start:]}", f"…{after[start:]}"
    return shorten(before) or "nothing", shorten(after) or "nothing"


def _common_prefix(before: Any, after: Any) -> int:
    pairs = zip(before, after, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(before), len(after)))
