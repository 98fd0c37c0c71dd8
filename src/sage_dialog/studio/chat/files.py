"""Files of conversations: saved for a training mix, and loaded to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from sage_dialog.config import Steering
from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.corpora.compression import DamagedFileError
from sage_dialog.corpora.conversations import read_conversations
from sage_dialog.dialogue import Dialogue, agent_view
from sage_dialog.sac import strip_blocks
from sage_dialog.studio.chat.conversation import (
    ChatTurn,
    Conversation,
    Settings,
    chat_messages,
    written_reply,
)

MAX_FILE = 16 * 1024 * 1024
"""Bytes of a file to load. A conversation has some kilobytes."""


class _SavedTurn(BaseModel, frozen=True, extra="forbid"):
    settings: Settings
    draws: int
    invalid_reason: str | None


class _Saved(BaseModel, frozen=True, extra="forbid"):
    """The field `chat` of a saved conversation."""

    policy: str
    blocks: bool
    seed: int
    settings: Settings
    turns: tuple[_SavedTurn, ...]


def conversation_record(policy: str, blocks: bool, seed: int, settings: Settings, turns: Sequence[ChatTurn]) -> str:
    """Return a conversation as one line of JSON of a training mix (`corpora.conversations`).

    `messages` are those that the policy sees. `chat` has the policy, the seed, the current settings, and in `turns`
    the settings of each reply.
    """
    chat = {
        "policy": policy,
        "blocks": blocks,
        "seed": seed,
        "settings": settings.model_dump(mode="json"),
        "turns": [
            {
                "settings": turn.settings.model_dump(mode="json"),
                "draws": turn.draws,
                "invalid_reason": turn.reply.invalid_reason,
            }
            for turn in turns
        ],
    }
    messages = agent_view(chat_messages(turns), settings.system_prompt)
    return json.dumps({"messages": messages, "chat": chat}, ensure_ascii=False) + "\n"


def save_conversation(conversation: Conversation, path: Path, seed: int, saved: set[Path]) -> Path:
    """Write a conversation as a file of one line, a `conversation_record`, atomically.

    Args:
        saved: files of this session, to which this one is added. Other files are never overwritten.

    Returns:
        The file; a missing suffix is added.

    Raises:
        ValueError: if the conversation is empty, or the file has another suffix, exists or cannot be written.
    """
    if not conversation.turns:
        raise ValueError("The conversation is empty.")
    path = path if path.suffix else path.with_name(f"{path.name}.jsonl")
    if path.suffix != ".jsonl":
        raise ValueError(f"{path} does not end in .jsonl, which a training mix requires.")
    target = path.resolve()
    if target not in saved and target.exists():
        raise ValueError(f"{path} exists and is not from this session; name another file.")
    record = conversation_record(
        conversation.policy, conversation.blocks, seed, conversation.settings, conversation.turns
    )
    try:
        with atomic_file(target) as partial:
            partial.write_text(record, "utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    saved.add(target)
    return path


def load_conversation(conversation: Conversation, path: Path, seed: int) -> list[str]:
    """Replace the turns of a conversation by those of a file, and its settings by saved ones.

    A conversation that was saved goes on as if it had never been left, with the same policy and seed. Another file of
    `corpora.conversations` with one conversation brings its messages and its system prompt.

    Returns:
        What differs from the conversation in the file.

    Raises:
        ValueError: if the file cannot be read, holds no conversation or several, or ends without a reply, or if the
            policy cannot follow the steering. The conversation remains as it was.
    """
    path = path if path.suffix else path.with_name(f"{path.name}.jsonl")
    dialogue = _read(path)
    system = dialogue.messages[0].content if dialogue.messages[0].role == "system" else None
    spoken = dialogue.messages[system is not None :]
    if len(spoken) % 2:
        raise ValueError(f"{path} ends with a message that has no reply.")
    settings = conversation.settings.model_copy(update={} if system is None else {"system_prompt": system})
    of_turns: list[tuple[Settings, int, str | None]] = [(settings, 1, None)] * (len(spoken) // 2)
    notes = []
    try:
        saved = _saved_chat(path)
    except ValidationError:
        saved = None
        notes.append(f"The settings in {path} are of another version of the chat; the current ones remain.")
    if saved is not None and len(saved.turns) == len(of_turns):
        settings = saved.settings
        of_turns = [(turn.settings, turn.draws, turn.invalid_reason) for turn in saved.turns]
        notes += _differences(saved, conversation, seed)
    if settings.steering and not conversation.blocks:
        settings = settings.model_copy(update={"steering": Steering()})
        notes.append(f"{conversation.policy} writes no state and action blocks, so nothing is steered.")
    conversation.engine.sample(conversation.policy, [], settings.sampling, steering=settings.steering)  # only a check
    turns = []
    for user, reply, (of_reply, draws, invalid_reason) in zip(spoken[::2], spoken[1::2], of_turns, strict=True):
        content = reply.content if conversation.blocks else strip_blocks(reply.content)
        written = written_reply(content, conversation.blocks, invalid_reason)
        turns.append(ChatTurn(user.content, written, of_reply, draws))
    conversation.turns, conversation.candidates, conversation.settings = tuple(turns), (), settings
    return notes


def _read(path: Path) -> Dialogue:
    try:
        if not path.is_file():
            raise ValueError(f"{path} is {'not a file' if path.exists() else 'not there'}.")
        if path.stat().st_size > MAX_FILE:
            raise ValueError(f"{path} is larger than {MAX_FILE // 2**20} MiB, which no conversation is.")
        dialogues, rejects = read_conversations({path.name: path})
    except (OSError, DamagedFileError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if rejects:
        raise ValueError(f"{rejects[0].where} is no conversation: {rejects[0].reason}.")
    if len(dialogues) != 1:
        raise ValueError(f"{path} holds {len(dialogues)} conversations; a file with one can be loaded.")
    return dialogues[0]


def _saved_chat(path: Path) -> _Saved | None:
    """Return the field `chat`; None in a file that the chat did not write. Raises ValidationError if it is another."""
    if path.suffix != ".jsonl":
        return None
    record = json.loads(path.read_text("utf-8-sig"))
    return _Saved.model_validate(record["chat"]) if "chat" in record else None


def _differences(saved: _Saved, conversation: Conversation, seed: int) -> Iterator[str]:
    if saved.policy != conversation.policy:
        yield f"It was written by {saved.policy}; {conversation.policy} goes on."
    elif saved.seed != seed:
        yield f"It was drawn with seed {saved.seed}; it goes on with seed {seed}."
