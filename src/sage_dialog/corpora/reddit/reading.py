"""Records of one dump as columns; an unreadable line is rejected with its number and the reason.

Blocks of lines go through Arrow's JSON reader, which creates no Python objects. A block that it refuses is halved
until a few lines are left; those are read by Python's `json`, and what that cannot read either is rejected. So the
result does not depend on how lines fall into blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from sage_dialog.corpora.compression import DamagedFileError, read_blocks
from sage_dialog.corpora.reddit.dumps import Dump
from sage_dialog.corpora.reddit.rules import Rule
from sage_dialog.corpora.reddit.tally import EXCERPT_CHARACTERS, Tally

BLOCK_BYTES = 1 << 23
_MAX_LINE_BYTES = 1 << 26  # more hold no record; they would fill the memory
_SINGLE_LINES = 8
_CACHED_BYTES = 1 << 18  # pieces that fit in the processor's cache

COMMENTS = pa.schema(
    [(name, pa.string()) for name in ("id", "parent_id", "link_id", "subreddit", "body", "author")]
    + [("score", pa.int64())]
)
SUBMISSIONS = pa.schema([("id", pa.string()), ("num_comments", pa.int64()), ("over_18", pa.bool_())])
LINE = pa.field("line", pa.int64())
_MAY_BE_MISSING = ("author", "score", "over_18")
_NOT_EMPTY = ("id", "parent_id", "link_id", "subreddit")


def read_records(dump: Dump, tally: Tally, progress: Callable[[int], None] | None = None) -> Iterator[pa.Table]:
    """Yield the readable records of a dump, block by block, in the order of the file.

    Args:
        dump: comments or submissions.
        tally: counts the lines and the rejected ones, and has their limit.
        progress: called with the compressed bytes read since the last call.

    Yields:
        Tables of COMMENTS or SUBMISSIONS with the column LINE.

    Raises:
        InputDataError: as soon as too many lines are unreadable.
    """
    schema = COMMENTS if dump.kind == "RC" else SUBMISSIONS
    before = 0
    try:
        for block in read_blocks(dump.path, BLOCK_BYTES, progress, _MAX_LINE_BYTES):
            lines = _Lines.split(block, before + 1)
            if tables := list(_read(lines, schema, tally)):
                yield pa.concat_tables(tables).combine_chunks()
            before += len(lines)
            tally.check_so_far()
    except DamagedFileError as error:
        tally.lines += 1
        tally.unread = 1.0 if error.unread is None else error.unread
        tally.reject(before + 1, Rule.DAMAGED_ARCHIVE, str(error).replace(str(dump.path), dump.path.name))


@dataclass(frozen=True)
class _Lines:
    """Consecutive lines of a block: their starts and ends without newlines, and the number of the first."""

    block: memoryview
    starts: np.ndarray
    ends: np.ndarray
    first: int

    @classmethod
    def split(cls, block: memoryview, first: int) -> _Lines:
        data = np.frombuffer(block, np.uint8)
        pieces = range(0, len(data), _CACHED_BYTES)
        newlines = np.concatenate([np.flatnonzero(data[at : at + _CACHED_BYTES] == ord("\n")) + at for at in pieces])
        ends = newlines if block[-1] == ord("\n") else np.append(newlines, len(block))
        return cls(block, np.concatenate([[0], ends[:-1] + 1]), ends, first)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, part: slice) -> _Lines:
        start, _, _ = part.indices(len(self))
        return _Lines(self.block, self.starts[part], self.ends[part], self.first + start)

    def line(self, position: int) -> bytes:
        return bytes(self.block[self.starts[position] : self.ends[position]])

    def text(self) -> memoryview:
        """Return all lines; the last one may lack its newline."""
        return self.block[self.starts[0] : self.ends[-1] + 1]

    def are_objects(self) -> bool:
        """Return whether all lines begin and end as objects; if Arrow finds as many objects, each line is one."""
        data = np.frombuffer(self.block, np.uint8)
        full = bool((self.ends > self.starts).all())
        return full and bool((data[self.starts] == ord("{")).all() and (data[self.ends - 1] == ord("}")).all())


def _read(lines: _Lines, schema: pa.Schema, tally: Tally) -> Iterator[pa.Table]:
    table = _parse(lines.text(), len(lines), schema) if lines.are_objects() else None
    if table is not None:
        tally.lines += len(lines)
        numbers = np.arange(lines.first, lines.first + len(lines))
        yield _reject_bad_fields(table.append_column(LINE, pa.array(numbers)), lines, tally)
    elif len(lines) > _SINGLE_LINES:
        middle = len(lines) // 2
        yield from _read(lines[:middle], schema, tally)
        yield from _read(lines[middle:], schema, tally)
    elif rows := list(_read_one_by_one(lines, schema, tally)):
        yield pa.Table.from_pylist(rows, schema=schema.append(LINE))


def _parse(text: bytes | memoryview, lines: int, schema: pa.Schema) -> pa.Table | None:
    """Return one row per line, with null for missing fields and without other fields; None if Arrow refuses."""
    options = pj.ReadOptions(use_threads=False, block_size=len(text) + 1)
    fields = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        _check_utf8(text)  # the reader does not check fields that it skips
        table = pj.read_json(pa.BufferReader(text), options, fields)
    except pa.ArrowInvalid:
        return None
    return table if len(table) == lines else None


def _check_utf8(text: bytes | memoryview) -> None:
    offsets = pa.py_buffer(np.array([0, len(text)], np.int64))
    pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, pa.py_buffer(text)]).validate(full=True)


def _reject_bad_fields(table: pa.Table, lines: _Lines, tally: Tally) -> pa.Table:
    checked = [name for name in _NOT_EMPTY if name in table.column_names]
    empty = [name for name in checked if pc.min(pc.binary_length(table[name])).as_py() == 0]
    missing = [name for name in table.column_names if name not in _MAY_BE_MISSING and table[name].null_count]
    if empty or missing:  # rare
        tests = [pc.fill_null(pc.equal(pc.binary_length(table[name]), 0), False) for name in empty]
        tests += [pc.is_null(table[name]) for name in missing]
        bad = np.logical_or.reduce([test.to_numpy() for test in tests])
        for position in np.flatnonzero(bad):
            tally.reject(lines.first + int(position), Rule.BAD_FIELD, _excerpt(lines.line(int(position))))
        table = table.filter(pa.array(~bad))
    if "score" in table.column_names and table["score"].null_count:  # a hidden score is null
        score = table.schema.get_field_index("score")
        table = table.set_column(score, "score", pc.fill_null(table["score"], 0))
    return table


def _read_one_by_one(lines: _Lines, schema: pa.Schema, tally: Tally) -> Iterator[dict[str, Any]]:
    for position in range(len(lines)):
        line = lines.line(position)
        if not line.strip():
            continue
        tally.lines += 1
        record = _record(line, schema)
        if isinstance(record, Rule):
            tally.reject(lines.first + position, record, _excerpt(line))
        else:
            yield record | {"line": lines.first + position}


def _record(line: bytes, schema: pa.Schema) -> dict[str, Any] | Rule:
    """Return a record with the fields of the schema, or the rule that rejects the line."""
    try:
        # Decoded here: json.loads would let surrogates written as raw bytes through.
        record = json.loads(line.decode("utf-8"), parse_int=_parse_int)
    except (ValueError, RecursionError):
        # Arrow's reader decides, as it does for blocks: it reads deeper nesting than Python.
        table = _parse(line + b"\n", 1, schema) if line.startswith(b"{") and line.endswith(b"}") else None
        record = table.to_pylist()[0] if table is not None else None
    if not isinstance(record, dict):
        return Rule.NOT_JSON
    return (_comment if schema is COMMENTS else _submission)(record)


def _parse_int(digits: str) -> int | float:
    """Parse an integer of any length; Python refuses thousands of digits."""
    return int(digits) if len(digits) < 30 else float("inf")


def _comment(record: dict[str, Any]) -> dict[str, Any] | Rule:
    texts = {name: record.get(name) for name in (*_NOT_EMPTY, "body")}
    given = record.get("score")
    score = 0 if given is None else _integer(given)  # a hidden score is null
    are_texts = all(isinstance(text, str) for text in texts.values()) and all(texts[name] for name in _NOT_EMPTY)
    if score is None or not are_texts:
        return Rule.BAD_FIELD
    author = record.get("author")
    texts["author"] = author if isinstance(author, str) else None
    if not all(map(_encodable, filter(None, texts.values()))):
        return Rule.LONE_SURROGATE
    return texts | {"score": score}


def _submission(record: dict[str, Any]) -> dict[str, Any] | Rule:
    name, num_comments = record.get("id"), _integer(record.get("num_comments"))
    if not (isinstance(name, str) and name and num_comments is not None):
        return Rule.BAD_FIELD
    if not _encodable(name):
        return Rule.LONE_SURROGATE
    return {"id": name, "num_comments": num_comments, "over_18": record.get("over_18") is True}


def _integer(value: Any) -> int | None:
    """Return an integer of 64 bits, also if written "12" or 12.0; None for anything else."""
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii() and len(value) <= 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and -(2**63) <= value < 2**63 else None


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _excerpt(line: bytes) -> str:
    return line[: 4 * EXCERPT_CHARACTERS].rstrip(b"\r").decode("utf-8", "backslashreplace")
