"""The first difference between two versions of an output."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sage_dialog.lineage.output_diff import Difference, first_difference

ROWS = [{"n": number, "text": f"t{number}", "turns": [{"w": ["a", None]}], "x": math.nan} for number in range(5000)]


def table(path: Path, rows: list[dict], **options) -> Path:
    schema = pa.schema(
        [("n", pa.int64()), ("text", pa.string()), ("turns", pa.list_(pa.struct([("w", pa.list_(pa.string()))]))),
         ("x", pa.float64())]
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)
    return path


def changed(row: int, **values) -> list[dict]:
    return [*ROWS[:row], {**ROWS[row], **values}, *ROWS[row + 1 :]]


def found(before: Path, after: Path) -> Difference:
    difference = first_difference(before, after)
    assert difference is not None
    return difference


def test_equal_rows_in_different_files_are_equal(tmp_path: Path) -> None:
    one = table(tmp_path / "a.parquet", ROWS)
    assert first_difference(one, table(tmp_path / "b.parquet", ROWS)) is None
    other = table(tmp_path / "c.parquet", ROWS, row_group_size=700, compression="gzip")
    assert one.read_bytes() != other.read_bytes()
    assert first_difference(one, other) is None


@pytest.mark.parametrize("row", [0, 2047, 2048, 4999])
def test_the_first_row_and_its_first_column_are_reported(tmp_path: Path, row: int) -> None:
    one = table(tmp_path / "a.parquet", ROWS)
    other = table(tmp_path / "b.parquet", changed(row, text="other", n=-1), row_group_size=700)
    difference = found(one, other)
    assert (difference.row, difference.column) == (row, "n")
    assert str(difference) == f"row {row:,}, column n: {row} before, -1 now"


def test_an_earlier_row_comes_before_an_earlier_column(tmp_path: Path) -> None:
    rows = changed(10, n=-1)
    rows[9] = {**rows[9], "turns": [{"w": ["a", "b"]}]}
    difference = found(table(tmp_path / "a.parquet", ROWS), table(tmp_path / "b.parquet", rows))
    assert (difference.row, difference.column) == (9, "turns")


def test_missing_rows_and_columns_are_reported(tmp_path: Path) -> None:
    one = table(tmp_path / "a.parquet", ROWS)
    assert str(found(one, table(tmp_path / "b.parquet", ROWS[:4000]))) == "rows: 5,000 before, 4,000 now"
    pq.write_table(pa.table({"n": [1]}), tmp_path / "c.parquet")
    assert found(one, tmp_path / "c.parquet").where == "columns"


def test_long_values_are_shortened_around_their_difference(tmp_path: Path) -> None:
    one, other = tmp_path / "a.html", tmp_path / "b.html"
    one.write_text("same\n" + "x" * 500 + "A" + "y" * 500)
    other.write_text("same\n" + "x" * 500 + "B" + "y" * 500)
    difference = found(one, other)
    assert difference.where == "line 2" and len(difference.before) <= 60
    assert "xA" in difference.before and "xB" in difference.after
    other.write_text("s\x1b[2Jame\n")
    assert found(one, other).after == "s\N{REPLACEMENT CHARACTER}[2Jame", "no control characters"


def test_folders_by_their_first_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "card.json").write_text('{"a": 1}')
        (tmp_path / name / "inner" / "w.safetensors").write_bytes(b"\xff\x00" * 3)
    assert first_difference(tmp_path / "one", tmp_path / "two") is None
    (tmp_path / "two/inner/w.safetensors").write_bytes(b"\xff\x00\xff\x01\xff\x00")
    assert str(found(tmp_path / "one", tmp_path / "two")) == (
        "inner/w.safetensors, byte 3: 00 ff 00 before, 01 ff 00 now"
    )
    (tmp_path / "two/also").write_text("")
    assert str(found(tmp_path / "one", tmp_path / "two")) == "also: missing before, present now"


def test_images_by_their_pixels(tmp_path: Path) -> None:
    def image(name: str, colour: int, **options) -> Path:
        picture = Image.new("RGB", (9, 7), (1, 2, 3))
        picture.putpixel((4, 5), (1, 2, colour))
        content = io.BytesIO()
        picture.save(content, "png", **options)
        (tmp_path / name).write_bytes(content.getvalue())
        return tmp_path / name

    one = image("a.png", 3)
    assert one.read_bytes() != image("b.png", 3, compress_level=0).read_bytes()
    assert first_difference(one, tmp_path / "b.png") is None
    assert str(found(one, image("c.png", 8))) == "pixel 4, 5: (1, 2, 3, 255) before, (1, 2, 8, 255) now"
