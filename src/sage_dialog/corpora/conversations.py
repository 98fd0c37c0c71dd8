"""Instruction data: conversations of ShareGPT or messages records in JSON, JSONL or Parquet files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sage_dialog.corpora.compression import SUFFIXES, DamagedFileError, read_blocks, read_lines
from sage_dialog.corpora.rejects import InputDataError, Reject
from sage_dialog.dialogue import Dialogue, Message

logger = logging.getLogger(__name__)

FORMS = (".json", ".jsonl", ".parquet")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SHAPES = (("conversations", "from", "value"), ("messages", "role", "content"))
_ROWS = 1024  # of a Parquet file, at a time


def read_conversations(
    files: Mapping[str, Path], assistant_may_open: bool = False
) -> tuple[list[Dialogue], list[Reject]]:
    """Return the conversations of all files, by file name and in the order of each file; ids are unique.

    A record is `{"id", "conversations": [{"from": "human" | "gpt" | "system", "value"}]}` (ShareGPT) or
    `{"id", "messages": [{"role", "content"}]}`. A `.json` file is one list of records, a `.jsonl` file
    holds one on each line; both may be compressed (.gz, .zst, .bz2, .xz). A `.parquet` file has one in each row, its
    columns named as above. A record without an id is named by its file and place: `a.json[0]` and `a.parquet[0]`
    count from 0, `a.jsonl:1` counts lines.

    Args:
        files: by name; other files are ignored with a warning.
        assistant_may_open: whether the first message may be the assistant's.

    Raises:
        InputDataError: if there is no such file, a .json file is no JSON list, or a .parquet file is not Parquet or
            lacks such a column.
    """
    conversations: dict[str, Dialogue] = {}
    rejects: list[Reject] = []
    forms = {name: form for name in sorted(files) if (form := file_form(name)) in FORMS}
    if not forms:
        raise InputDataError(
            f"No conversations among {sorted(files) or 'no files'}: expected .json, .jsonl or .parquet files"
        )
    for name in sorted(files.keys() - forms):
        logger.warning("%s does not end in .json, .jsonl or .parquet; ignored", files[name])
    for name, form in forms.items():
        try:
            for where, record in read_records(name, files[name], form):
                try:
                    conversation = _conversation(where, record, assistant_may_open)
                    if conversation.id in conversations:
                        raise ValueError("an id that was there before")
                    conversations[conversation.id] = conversation
                except ValueError as error:
                    rejects.append(Reject(where, str(error)))
        except DamagedFileError as error:
            rejects.append(Reject(name, str(error)))
    return list(conversations.values()), rejects


def role_fault(roles: Sequence[str], assistant_may_open: bool) -> str | None:
    """Return why messages of these roles, system message excluded, are no training conversation; None if they are."""
    if unknown := sorted(set(roles) - {"user", "assistant"}):
        return f"a role that is neither user nor assistant: {unknown[0]}"
    if "assistant" not in roles:
        return "no message of the assistant"
    if roles[0] == "assistant" and not assistant_may_open:
        return "the assistant speaks first"
    for before, role in pairwise(roles):
        if before == role:
            return f"two messages of the {role} in a row"
    return None


def file_form(name: str) -> str:
    """Return the suffix of a file's format, without that of its compression."""
    path = PurePath(name)
    return PurePath(path.stem).suffix if path.suffix in SUFFIXES else path.suffix


def read_records(name: str, path: Path, form: str) -> Iterator[tuple[str, Any]]:
    """Yield the place of each record of a file and the record, which is None for invalid JSON.

    Args:
        form: `.json` (one list), `.jsonl` (one on each line) or `.parquet` (one in each row).

    Raises:
        InputDataError: if the file as a whole cannot be read.
        DamagedFileError: after the records before the damage.
    """
    if form == ".jsonl":
        for number, line in enumerate(read_lines(path), start=1):
            if line.strip():
                yield f"{name}:{number}", _json_or_none(line)
        return
    records: Iterable[Any]
    if form == ".parquet":
        records = _parquet_rows(path)
    elif not isinstance(records := _json_or_none(b"".join(read_blocks(path, 1 << 20))), list):
        raise InputDataError(f"{path} is not a JSON list of conversations; a file with one on each line ends in .jsonl")
    yield from ((f"{name}[{index}]", record) for index, record in enumerate(records))


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        try:
            parquet = pq.ParquetFile(file)
            found = parquet.schema_arrow.names
            if not (lists := [key for key, *_ in _SHAPES if key in found]):
                raise InputDataError(
                    f"{path} has neither a column conversations nor messages; it has {', '.join(found)}"
                )
            columns = [*lists, *(["id"] if "id" in found else [])]
            for batch in parquet.iter_batches(_ROWS, columns=columns):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputDataError(f"{path} is no readable Parquet file: {error}") from error


def _json_or_none(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _conversation(where: str, record: Any, assistant_may_open: bool) -> Dialogue:
    """Raises ValueError with the reason where the record is no conversation to learn from."""
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    for key, role_key, content_key in _SHAPES:
        if isinstance(record.get(key), list):
            messages = tuple(_message(message, role_key, content_key) for message in record[key])
            break
    else:
        raise ValueError("neither a list of conversations nor of messages")
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError("a system message after the first message")
    roles = [message.role for message in messages if message.role != "system"]
    if fault := role_fault(roles, assistant_may_open):
        raise ValueError(fault)
    name = record.get("id")
    if name is not None and not isinstance(name, str | int):
        raise ValueError("an id that is neither text nor a number")
    return Dialogue(where if name is None else checked_text(str(name)), messages)


def _message(message: Any, role_key: str, content_key: str) -> Message:
    if not isinstance(message, dict):
        raise ValueError("a message that is no JSON object")
    role, content = message.get(role_key), message.get(content_key)
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError("a role that is none of human, gpt, user, assistant, system")
    if not isinstance(content, str) or not content.strip():
        raise ValueError("a message without text")
    return Message(_ROLES[role], checked_text(content))


def checked_text(text: str) -> str:
    """Return the text. Raises ValueError if UTF-8 cannot hold it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate, which UTF-8 cannot hold") from None
    return text
