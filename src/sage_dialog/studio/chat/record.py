"""Saved conversations, in the format of a training mix (`corpora.conversations`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.studio.chat.conversation import Conversation

SUFFIX = ".jsonl"


class Records:
    """The files written in this session. Other files are never overwritten."""

    def __init__(self) -> None:
        self._written: set[Path] = set()

    def save(self, conversation: Conversation, path: Path, seed: int) -> Path:
        """Write the conversation as one line of JSON, atomically.

        `messages` are those that the policy sees. `chat` has the settings; its `steered` has one entry per reply.

        Returns:
            The file; a missing suffix is added.

        Raises:
            ValueError: if the conversation is empty, or the file has another suffix, exists or cannot be written.
        """
        if not conversation.turns:
            raise ValueError("The conversation is empty.")
        path = path if path.suffix else path.with_name(path.name + SUFFIX)
        if path.suffix != SUFFIX:
            raise ValueError(f"{path} does not end in {SUFFIX}, which a training mix requires.")
        target = path.resolve()
        if target not in self._written and target.exists():
            raise ValueError(f"{path} exists and is not from this session; name another file.")
        try:
            with atomic_file(target) as partial:
                partial.write_text(json.dumps(_record(conversation, seed), ensure_ascii=False) + "\n", "utf-8")
        except (OSError, UnicodeEncodeError) as error:
            raise ValueError(f"{path} cannot be written: {error}") from error
        self._written.add(target)
        return path


def _record(conversation: Conversation, seed: int) -> dict[str, Any]:
    return {
        "messages": conversation.messages(),
        "chat": {
            "policy": conversation.policy,
            "blocks": conversation.blocks,
            "seed": seed,
            "sampling": conversation.sampling.model_dump(),
            "steered": [turn.steering.model_dump() for turn in conversation.turns],
        },
    }
