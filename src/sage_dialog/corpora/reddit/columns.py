"""Text search on whole columns, without a Python object per row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class TextColumn:
    """A string column, searched in the bytes of its Arrow buffer."""

    def __init__(self, values: pa.StringArray) -> None:
        _, offsets, data = values.buffers()
        self._values = values
        self._offsets = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
        self._data = np.frombuffer(data if data is not None else b"", np.uint8)

    def rows_with(self, needle: bytes, rare: int = 0) -> np.ndarray:
        """Return a mask of the rows that contain an ASCII string.

        Args:
            needle: the string.
            rare: position of its rarest character, which is searched for first.
        """
        places = np.flatnonzero(self._data == needle[rare]) - rare
        places = places[(places >= 0) & (places <= len(self._data) - len(needle))]
        for place, byte in enumerate(needle):
            places = places[self._data[places + place] == byte]
        rows = np.searchsorted(self._offsets, places, side="right") - 1
        inside = (rows >= 0) & (rows < len(self._values))
        rows, places = rows[inside], places[inside]
        mask = np.zeros(len(self._values), bool)
        mask[rows[places + len(needle) <= self._offsets[rows + 1]]] = True
        return mask

    def begins_with_two_words(self) -> np.ndarray:
        """Return a mask of rows that begin with two ASCII words; other rows may have two words, too."""
        space = pc.find_substring(self._values, " ").to_numpy().astype(np.int64)
        start, end = self._offsets[:-1].astype(np.int64), self._offsets[1:]
        data = self._data
        sure = (space > 0) & (start + space + 1 < end)
        first, second = data[start[sure]], data[(start + space + 1)[sure]]
        sure[sure] = (first > 32) & (first < 127) & (second > 32) & (second < 127)
        return sure

    def matching(self, pattern: str) -> np.ndarray:
        """Return a mask of the rows in which a regular expression (RE2) matches."""
        return pc.match_substring_regex(self._values, pattern).to_numpy(zero_copy_only=False)

    def first_bytes(self) -> np.ndarray:
        """Return the first byte of each row; 0 where there is none."""
        filled = np.flatnonzero(self._offsets[1:] > self._offsets[:-1])
        found = np.zeros(len(self._values), np.uint8)
        found[filled] = self._data[self._offsets[filled]]
        return found

    def last_bytes(self) -> np.ndarray:
        """Return the last byte of each row that is no space or newline; 0 where there is none."""
        data = self._data
        starts, ends = self._offsets[:-1], self._offsets[1:].copy()
        rows = np.flatnonzero(ends > starts)
        while len(rows):
            last = data[ends[rows] - 1]
            rows = rows[(last == ord(" ")) | (last == ord("\n"))]
            ends[rows] -= 1
            rows = rows[ends[rows] > starts[rows]]
        filled = np.flatnonzero(ends > starts)
        found = np.zeros(len(ends), np.uint8)
        found[filled] = data[ends[filled] - 1]
        return found

    def word_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a lower and an upper bound of the number of words of each row."""
        is_visible = (self._data > 32) & (self._data < 127)  # in ASCII; other bytes may be white space
        begins = is_visible.copy()
        begins[1:] &= self._data[:-1] == ord(" ")
        return self._count(begins), self._count(~is_visible) + 1

    def _count(self, places: np.ndarray) -> np.ndarray:
        """Return how many bytes of each row are in a mask of the buffer."""
        starts, ends = self._offsets[:-1], self._offsets[1:]
        filled = np.flatnonzero(ends > starts)
        counts = np.zeros(len(starts), np.int32)
        if len(filled):
            # Each sum reaches to the next start, since rows are consecutive.
            counts[filled] = np.add.reduceat(places[: ends[-1]].view(np.uint8), starts[filled], dtype=np.int32)
        return counts

    def hash(self, ignored_prefix: bytes) -> np.ndarray:
        """Return a hash of each row, the same with and without the prefix."""
        data = self._data
        starts, ends = self._offsets[:-1], self._offsets[1:]
        begins = ends - starts >= len(ignored_prefix)
        for place, byte in enumerate(ignored_prefix):
            begins[begins] = data[starts[begins] + place] == byte
        starts = starts + len(ignored_prefix) * begins
        # The last eight bytes of each row as an integer; Reddit ids are shorter, and count up.
        padded = np.concatenate([np.zeros(8, np.uint8), data])
        number = np.lib.stride_tricks.sliding_window_view(padded, 8)[ends].view("<u8")[:, 0]
        missing = 8 - np.minimum(ends - starts, 8)
        number = np.where(missing < 8, number >> (8 * missing).astype(np.uint64), 0)
        return (number * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # Fibonacci hashing

    def where(self, condition: Callable[[str], bool], rows: np.ndarray | None = None) -> np.ndarray:
        """Return a mask of the rows whose text fulfils a condition, among `rows` (None: all)."""
        places = np.flatnonzero(rows) if rows is not None else np.arange(len(self._values))
        mask = np.zeros(len(self._values), bool)
        mask[places] = [condition(text) for text in self._values.take(pa.array(places)).to_pylist()]
        return mask
