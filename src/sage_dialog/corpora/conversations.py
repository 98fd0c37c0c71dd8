"""Instruction data read from files: ShareGPT JSON and messages JSONL become conversations."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from sage_dialog.corpora.set_aside import SetAside, log_set_aside

logger = logging.getLogger(__name__)

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Message:
    """`role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """An optional system message, then user and assistant in turn, from a user's to an assistant's."""

    id: str
    messages: tuple[Message, ...]


def read_conversations(files: Mapping[str, Path]) -> tuple[list[Conversation], list[SetAside]]:
    """Conversations of all files, by file name and in the order of each file; ids are unique.

    A record is `{"id", "conversations": [{"from": "human" | "gpt" | "system", "value"}]}` (ShareGPT) or
    `{"id", "messages": [{"role", "content"}]}`. A `.json` file is one list of records, a `.jsonl` file
    holds one on each line. A record without an id is named by its file and position.

    Raises:
        FileNotFoundError: if no .json or .jsonl file is among the files.
        ValueError: if a .json file is not a JSON list.
    """
    conversations: dict[str, Conversation] = {}
    set_aside: list[SetAside] = []
    named = {name: path for name, path in sorted(files.items()) if PurePath(name).suffix in (".json", ".jsonl")}
    if not named:
        raise FileNotFoundError(f"no conversations among {sorted(files) or 'no files'}: expected .json or .jsonl files")
    for name, path in named.items():
        for where, record in _records(name, path):
            try:
                conversation = _conversation(where, record)
                if conversation.id in conversations:
                    raise ValueError("an id that was there before")
                conversations[conversation.id] = conversation
            except ValueError as error:
                set_aside.append(SetAside(where, str(error)))
    log_set_aside(logger, "conversations", set_aside)
    return list(conversations.values()), set_aside


def _records(name: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Where a record stands and the record; a line that is no JSON comes as None."""
    if path.suffix == ".jsonl":
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            if line.strip():
                yield f"{name}:{number}", _json_or_none(line)
        return
    records = _json_or_none(path.read_bytes())
    if not isinstance(records, list):
        raise ValueError(f"{path} is not a JSON list of conversations; a file with one on each line ends in .jsonl")
    yield from ((f"{name}[{index}]", record) for index, record in enumerate(records))


def _json_or_none(text: bytes) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _conversation(where: str, record: Any) -> Conversation:
    """Raises ValueError with the reason where the record is no conversation to learn from."""
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    shapes = (("conversations", "from", "value"), ("messages", "role", "content"))
    for key, role_key, content_key in shapes:
        if isinstance(record.get(key), list):
            messages = tuple(_message(message, role_key, content_key) for message in record[key])
            break
    else:
        raise ValueError("neither a list of conversations nor of messages")
    roles = [message.role for message in messages if message.role != "system"]
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError("a system message after the first message")
    if not roles or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError("user and assistant do not take turns, from a user's message to an assistant's")
    name = record.get("id")
    if name is not None and not isinstance(name, str | int):
        raise ValueError("an id that is neither text nor a number")
    return Conversation(where if name is None else _checked_text(str(name)), messages)


def _message(message: Any, role_key: str, content_key: str) -> Message:
    if not isinstance(message, dict):
        raise ValueError("a message that is no JSON object")
    role, content = message.get(role_key), message.get(content_key)
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError("a role that is none of human, gpt, user, assistant, system")
    if not isinstance(content, str) or not content.strip():
        raise ValueError("a message without text")
    return Message(_ROLES[role], _checked_text(content))


def _checked_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate, which UTF-8 cannot hold") from None
    return text
