"""Questions asked of whole columns of text, without a Python object for each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class TextColumn:
    """One string column, searched as the bytes it is stored in."""

    def __init__(self, values: pa.StringArray) -> None:
        _, offsets, data = values.buffers()
        self._values = values
        self._offsets = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
        self._data = data.to_pybytes() if data is not None else b""

    def rows_with(self, needle: bytes, rare: int = 0) -> np.ndarray:
        """The rows that hold some ASCII characters; to look for the rarest one of them is ten times as fast."""
        found, data, mark = [], self._data, needle[rare : rare + 1]
        at = data.find(mark)
        while at >= 0:
            if at >= rare and data.startswith(needle, at - rare):
                found.append(at - rare)
            at = data.find(mark, at + 1)
        places = np.array(found, np.int64)
        rows = np.searchsorted(self._offsets, places, side="right") - 1
        inside = (rows >= 0) & (rows < len(self._values))
        rows, places = rows[inside], places[inside]
        mask = np.zeros(len(self._values), bool)
        mask[rows[places + len(needle) <= self._offsets[rows + 1]]] = True
        return mask

    def two_words(self) -> np.ndarray:
        """Rows that surely hold two words: visible ASCII, then a space, then visible ASCII. Others may, too."""
        space = pc.find_substring(self._values, " ").to_numpy().astype(np.int64)
        start, end = self._offsets[:-1].astype(np.int64), self._offsets[1:]
        data = np.frombuffer(self._data, np.uint8)
        sure = (space > 0) & (start + space + 1 < end)
        first, second = data[start[sure]], data[(start + space + 1)[sure]]
        sure[sure] = (first > 32) & (first < 127) & (second > 32) & (second < 127)
        return sure

    def matching(self, pattern: str) -> np.ndarray:
        """The rows in which a regular expression (RE2) is found."""
        return pc.match_substring_regex(self._values, pattern).to_numpy(zero_copy_only=False)

    def last_bytes(self) -> np.ndarray:
        """The last byte of each row but for spaces and newlines; 0 where there is none."""
        data = np.frombuffer(self._data, np.uint8)
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

    def gaps(self) -> np.ndarray:
        """At least as many as there are gaps between the words of each row: its bytes that are no visible ASCII."""
        data = np.frombuffer(self._data, np.uint8)
        before = np.concatenate([[0], np.cumsum((data < 33) | (data > 126), dtype=np.int32)])
        return before[self._offsets[1:]] - before[self._offsets[:-1]]

    def hashed(self, but_for: bytes) -> np.ndarray:
        """A number for each row, the same for the same text with and without a certain beginning."""
        data = np.frombuffer(self._data, np.uint8)
        starts, ends = self._offsets[:-1], self._offsets[1:]
        begins = ends - starts >= len(but_for)
        for place, byte in enumerate(but_for):
            begins[begins] = data[starts[begins] + place] == byte
        starts = starts + len(but_for) * begins
        number = np.zeros(len(starts), np.uint64)
        for place in range(1, 9):  # Reddit's names are shorter, and count up
            inside = ends - starts >= place
            number[inside] = number[inside] << np.uint64(8) | data[ends[inside] - place]
        return (number * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # Fibonacci hashing

    def confirmed(self, rows: np.ndarray | None, holds: Callable[[str], bool]) -> np.ndarray:
        """Of the given rows (None: all), those for which it holds."""
        places = np.flatnonzero(rows) if rows is not None else np.arange(len(self._values))
        mask = np.zeros(len(self._values), bool)
        mask[places] = [holds(text) for text in self._values.take(pa.array(places)).to_pylist()]
        return mask
