"""Blocks and lines of compressed files: complete and in order, also of truncated files."""

import bz2
import gzip
import lzma
import random
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from sage_dialog.corpora.compression import DamagedFileError, read_blocks, read_lines

COMPRESS = {
    ".zst": zstandard.ZstdCompressor(level=1).compress,
    ".bz2": bz2.compress,
    ".xz": partial(lzma.compress, preset=0),
    ".gz": gzip.compress,
    "": bytes,
}
ARCHIVES = [suffix for suffix in COMPRESS if suffix]


def prose(lines: int) -> bytes:
    """Lines of 1 to 400 characters that compress about as well as text does."""
    draw = random.Random(lines)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(1, 9))) for _ in range(5_000)]
    return b"".join(" ".join(draw.choices(words, k=draw.randint(1, 40))).encode() + b"\n" for _ in range(lines))


TEXT = prose(10_000)
LONGEST_LINE = max(map(len, TEXT.splitlines()))


def read_all(path: Path, size: int = 1 << 16) -> tuple[bytes, bool]:
    """Return the text of all blocks of a file, and whether the file is damaged."""
    blocks = []
    try:
        for block in read_blocks(path, size):
            assert block
            blocks.append(block)
    except DamagedFileError as error:
        assert str(path) in str(error)
        return b"".join(blocks), True
    return b"".join(blocks), False


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("size", [1, 30_000, 1 << 20, 1 << 30])
def test_blocks_are_the_file_cut_where_lines_end(tmp_path, suffix, size):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT))
    blocks = list(read_blocks(path, size))
    assert b"".join(blocks) == TEXT
    assert all(block[-1:] == b"\n" for block in blocks)
    assert all(len(block) > size - LONGEST_LINE for block in blocks[:-1])
    assert max(map(len, blocks)) <= size + 1_000_000  # bzip2 gives its text in pieces of 900 kB


@pytest.mark.parametrize("suffix", COMPRESS)
def test_several_frames_are_one_text(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    parts = [TEXT[start : start + 70_001] for start in range(0, len(TEXT), 70_001)]
    path.write_bytes(b"".join(COMPRESS[suffix](part) for part in parts))
    assert read_all(path) == (TEXT, False)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_last_line_need_not_end(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\ntwo"))
    assert list(read_blocks(path, 4)) in ([b"one\n", b"two"], [b"one\ntwo"])
    assert list(read_lines(path)) == [b"one\n", b"two"]


def test_a_line_is_never_cut(tmp_path):
    path = tmp_path / "file.zst"
    lines = [b"short\n", b"x" * 3_000_000 + b"\n", b"short\n", b"y" * 500_000 + b"\n"]
    path.write_bytes(COMPRESS[".zst"](b"".join(lines)))
    assert [line for block in read_blocks(path, 1_000) for line in bytes(block).splitlines(keepends=True)] == lines


@given(lines=st.lists(st.binary(max_size=30)), size=st.integers(1, 100), suffix=st.sampled_from(list(COMPRESS)))
def test_any_bytes_come_back(tmp_path_factory, lines, size, suffix):
    text = b"\n".join(lines)
    path = tmp_path_factory.mktemp("any") / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](text))
    assert read_all(path, size) == (text, False)
    assert b"".join(read_lines(path)) == text
    assert all(b"\n" not in line[:-1] for line in read_lines(path))


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_truncated_file_yields_its_complete_lines_then_an_error(tmp_path, suffix):
    whole = COMPRESS[suffix](TEXT)
    path = tmp_path / f"file{suffix}"
    for length in [0, 1, 5, *range(20, len(whole), len(whole) // 23), len(whole) - 1]:
        path.write_bytes(whole[:length])
        text, broken = read_all(path)
        assert broken
        assert TEXT.startswith(text)
        assert not text or text.endswith(b"\n")
    assert len(text) > len(TEXT) // 2  # cut by one byte


def test_a_truncated_zstd_file_yields_all_that_can_be_decompressed(tmp_path):
    path = tmp_path / "file.zst"
    cut = COMPRESS[".zst"](TEXT)[: len(TEXT) // 5]
    path.write_bytes(cut)
    possible = zstandard.ZstdDecompressor().decompressobj().decompress(cut)
    assert read_all(path) == (possible[: possible.rindex(b"\n") + 1], True)


@pytest.mark.parametrize("suffix", [".zst", ".bz2", ".xz"])
def test_wrong_bytes_in_the_middle_are_detected(tmp_path, suffix):
    whole = bytearray(COMPRESS[suffix](TEXT))
    middle = len(whole) // 2
    whole[middle : middle + 64] = bytes(64)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(whole)
    text, broken = read_all(path)
    assert broken
    assert TEXT.startswith(text) or suffix == ".zst"  # which has a checksum only by an option


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_file_that_is_no_archive_is_named(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"<html>404</html>")
    assert read_all(path) == (b"", True)
    path.write_bytes(b"")
    assert read_all(path) == (b"", True)


def test_an_empty_plain_file_has_no_lines(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert read_all(tmp_path / "file") == (b"", False)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_padding_after_an_archive_is_no_damage(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\n") + bytes(512) + COMPRESS[suffix](b"two\n") + bytes(512))
    assert read_all(path) == (b"one\ntwo\n", False)


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read_lines(tmp_path / "file.zst"))


def test_windows_of_two_gib_are_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()  # which writes no size
    path = tmp_path / "file.zst"
    path.write_bytes(compressor.compress(TEXT) + compressor.flush())
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 2**31
    assert read_all(path) == (TEXT, False)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_progress_adds_up_to_the_size_of_the_file(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT))
    read: list[int] = []
    list(read_blocks(path, 1_000, read.append))
    assert sum(read) == path.stat().st_size


def test_a_repetitive_file_is_not_held_in_memory_as_a_whole(tmp_path):
    path = tmp_path / "file.zst"
    compressor = zstandard.ZstdCompressor().compressobj()
    line = b"the same again and again\n" * 40_000
    path.write_bytes(b"".join([*(compressor.compress(line) for _ in range(300)), compressor.flush()]))
    tracemalloc.start()
    assert sum(map(len, read_blocks(path, 1 << 20))) == 300 * len(line)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 << 20


@pytest.mark.parametrize("suffix", COMPRESS)
def test_paths_of_other_file_systems_are_read_alike(suffix):
    path = UPath(f"memory://compression/file{suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS[suffix](TEXT))
    assert read_all(path) == (TEXT, False)
    if suffix:
        path.write_bytes(COMPRESS[suffix](TEXT)[:-5])
        with pytest.raises(DamagedFileError, match="file"):
            list(read_lines(path))
