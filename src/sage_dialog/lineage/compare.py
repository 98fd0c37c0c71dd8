"""Whether two versions of an output hold the same, and where they first do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.lineage.staleness import printable

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_ROWS = 2048  # rows held at a time
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Difference:
    """The first difference: where, and what stands there in the one and in the other, shortened."""

    where: str
    before: str
    after: str
    row: int | None = None  # of a table, from 0
    column: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.before} before, {self.after} now"


def first_difference(before: Path, after: Path) -> Difference | None:
    """None where both hold the same: of a table every row, of an image every pixel, of all else every byte.

    Args:
        before: a file, or a folder such as a policy; a local path, or one of fsspec with the same methods.
        after: of the same kind.
    """
    if before.is_dir() or after.is_dir():
        return _in_folders(before, after)
    if _digest(before) == _digest(after):
        return None
    if before.suffix == ".parquet":
        return _in_tables(before, after)
    if before.suffix == ".png":
        return _in_images(before, after)
    return _in_texts(before, after)


def _in_folders(before: Path, after: Path) -> Difference | None:
    one, other = (
        {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in (before, after)
    )
    for name in sorted({*one, *other}):
        if name not in one or name not in other:
            there = ("there", "not there") if name in one else ("not there", "there")
            return Difference(printable(name), there[0], there[1])
        if found := first_difference(one[name], other[name]):
            return Difference(f"{printable(name)}, {found.where}", found.before, found.after, found.row, found.column)
    return None


def _in_tables(before: Path, after: Path) -> Difference | None:
    import pyarrow.parquet as pq

    with before.open("rb") as one, after.open("rb") as other:
        files = pq.ParquetFile(one), pq.ParquetFile(other)
        schemas = tuple(file.schema_arrow.remove_metadata() for file in files)
        if not schemas[0].equals(schemas[1]):
            names = [", ".join(f"{field.name} {field.type}" for field in schema) for schema in schemas]
            return Difference("columns", *_where_they_part(*names))
        start = 0
        for left, right in zip(*(_batches(file) for file in files), strict=False):
            both = min(left.num_rows, right.num_rows)
            if found := _in_rows(left.slice(0, both), right.slice(0, both), start):
                return found
            start += both
        rows, now = (int(file.metadata.num_rows) for file in files)
    return None if rows == now else Difference("rows", f"{rows:,}", f"{now:,}")


def _batches(file: Any) -> Iterator[RecordBatch]:
    """Of equal length whatever the row groups are, but the last."""
    import pyarrow as pa

    waiting: list[RecordBatch] = []
    for batch in file.iter_batches(batch_size=_ROWS):
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= _ROWS:
            whole = pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
            yield whole.slice(0, _ROWS)
            waiting = [whole.slice(_ROWS)] if whole.num_rows > _ROWS else []
    if waiting:
        yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]


def _in_rows(before: RecordBatch, after: RecordBatch, start: int) -> Difference | None:
    """Of batches of the same length, the first row that differs and in it the first column."""
    unequal = [name for name in before.schema.names if not before.column(name).equals(after.column(name))]
    firsts = []
    for place, name in enumerate(unequal):  # by value, since to Arrow a NaN is not even equal to itself
        pairs = zip(before.column(name).to_pylist(), after.column(name).to_pylist(), strict=True)
        if found := next(
            ((row, place, *pair) for row, pair in enumerate(pairs) if repr(pair[0]) != repr(pair[1])), None
        ):
            firsts.append(found)
    if not firsts:
        return None
    row, place, one, other = min(firsts, key=lambda found: found[:2])
    row += start
    where = f"row {row:,}, column {unequal[place]}"
    return Difference(where, *_where_they_part(repr(one), repr(other)), row=row, column=unequal[place])


def _in_images(before: Path, after: Path) -> Difference | None:
    from PIL import Image, ImageChops

    with Image.open(before) as one, Image.open(after) as other:
        if one.size != other.size:
            return Difference("size in pixels", str(one.size), str(other.size))
        left, right = one.convert("RGBA"), other.convert("RGBA")
        if (box := ImageChops.difference(left, right).getbbox(alpha_only=False)) is None:
            return None
        row = ImageChops.difference(left, right).crop((0, box[1], left.width, box[1] + 1))
        at = (row.getbbox(alpha_only=False) or box)[0], box[1]
        return Difference(f"pixel {at[0]}, {at[1]}", str(left.getpixel(at)), str(right.getpixel(at)))


def _in_texts(before: Path, after: Path) -> Difference:
    try:
        with before.open(encoding="utf-8") as one, after.open(encoding="utf-8") as other:
            for number, (left, right) in enumerate(_both(one, other), 1):
                if left != right:
                    return Difference(f"line {number}", *_where_they_part(left, right))
    except UnicodeDecodeError:
        pass
    return _in_bytes(before, after)


def _in_bytes(before: Path, after: Path) -> Difference:
    with before.open("rb") as one, after.open("rb") as other:
        place = 0
        while (left := one.read(1 << 20)) == (right := other.read(1 << 20)):
            place += len(left)
    pairs = zip(left, right, strict=False)
    part = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
    shown = [piece[part : part + 8].hex(" ") or "the end" for piece in (left, right)]
    return Difference(f"byte {place + part:,}", shown[0], shown[1])


def _both(one: Any, other: Any) -> Iterator[tuple[str, str]]:
    while True:
        left, right = one.readline(), other.readline()
        if not left and not right:
            return
        yield left, right


def _where_they_part(before: str, after: str) -> tuple[str, str]:
    """Two texts, long ones from shortly before they first differ."""
    if max(len(before), len(after)) > _SHOWN:
        same = next(
            (at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
        )
        start = max(0, same - _SHOWN // 3)
        if start:
            before, after = f"…{before[start:]}", f"…{after[start:]}"
    return _shown(before.rstrip("\n")), _shown(after.rstrip("\n"))


def _shown(text: str) -> str:
    text = printable(text)
    return (text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…") or "nothing"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
        return digest.hexdigest()
