"""A conversation as a file that a training mix reads (`corpora.conversations`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.studio.chat.conversation import Conversation

SUFFIX = ".jsonl"


class Records:
    """Files written in this session; others are never written over."""

    def __init__(self) -> None:
        self._written: set[Path] = set()

    def save(self, conversation: Conversation, path: Path, seed: int) -> Path:
        """Writes the conversation as one line of JSON; the file appears only when it is whole.

        `messages` are what the agent has seen: its system message, and its replies with their blocks. `chat` says how
        they came about; `steered` in it has an entry for each reply.

        Returns:
            The file, its suffix added where none was named.

        Raises:
            ValueError: if nothing was said, or the file has another suffix, is there already or cannot be written.
        """
        conversation.last  # noqa: B018  # raises where there is none
        path = path if path.suffix else path.with_name(path.name + SUFFIX)
        if path.suffix != SUFFIX:
            raise ValueError(f"{path} does not end in {SUFFIX}, by which a training mix knows how to read it.")
        where = path.resolve()
        if where not in self._written and where.exists():
            raise ValueError(f"{path} is there already and not from this session; name another file.")
        try:
            with atomic_file(where) as partial:
                partial.write_text(json.dumps(_record(conversation, seed), ensure_ascii=False) + "\n", "utf-8")
        except (OSError, UnicodeEncodeError) as error:
            raise ValueError(f"{path} cannot be written: {error}") from error
        self._written.add(where)
        return path


def _record(conversation: Conversation, seed: int) -> dict[str, Any]:
    return {
        "messages": conversation.messages(),
        "chat": {
            "policy": conversation.policy,
            "blocks": conversation.blocks,
            "seed": seed,
            "sampling": conversation.sampling.model_dump(),
            "steered": [exchange.steering.model_dump() for exchange in conversation.exchanges],
        },
    }
