"""A conversation with a policy: its turns, steering, retries, undo and file. Independent of the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from pydantic import ValidationError

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.inference.candidates import Candidate, parse_candidate
from sage_dialog.inference.engine import Engine, OnText, Prompt


@dataclass(frozen=True)
class ChatTurn:
    """The person's text and the policy's reply.

    Attributes:
        steering: of the reply.
        draws: how often replies were drawn for this turn.
    """

    user: str
    reply: Candidate
    steering: Steering
    draws: int = 1


@dataclass
class Conversation:
    """A conversation in which the policy sees what the agent sees in self-play.

    A reply is a function of the engine's seed, the messages before it, the steering, and the number of draws for this
    turn. An exception while a reply is drawn leaves the conversation unchanged.
    """

    engine: Engine
    policy: str
    blocks: bool
    sampling: SamplingConfig
    system_prompt: str | None = None
    steering: Steering = field(default_factory=Steering)
    turns: tuple[ChatTurn, ...] = ()
    candidates: tuple[ChatTurn, ...] = ()
    """Candidates for the last turn."""

    def say(self, text: str, on_text: OnText | None = None) -> Candidate:
        """Return the reply to `text`; `on_text` is called with its pieces as they are generated.

        Raises:
            ValueError: if the model's context is full, or the policy cannot follow the steering.
        """
        (reply,) = self._draw(self.turns, text, 0, 1, on_text)
        self.turns, self.candidates = (*self.turns, ChatTurn(text, reply, self.steering)), ()
        return reply

    def retry(self, on_text: OnText | None = None) -> Candidate:
        """Replace the last reply by another, with the current steering. Raises ValueError as `say` does."""
        last = self.last
        (reply,) = self._draw(self.turns[:-1], last.user, last.draws, 1, on_text)
        self._replace_last(ChatTurn(last.user, reply, self.steering, last.draws + 1))
        self.candidates = ()
        return reply

    def draw_candidates(self, number: int) -> tuple[Candidate, ...]:
        """Return candidates for the last reply, which remains until one is picked. Raises ValueError as `say` does."""
        last = self.last
        replies = self._draw(self.turns[:-1], last.user, last.draws, number)
        self._replace_last(replace(last, draws=last.draws + 1))
        self.candidates = tuple(ChatTurn(last.user, reply, self.steering, last.draws + 1) for reply in replies)
        return replies

    def pick(self, number: int) -> Candidate:
        """Replace the last reply by a candidate, counted from 1. Raises ValueError if there is none of that number."""
        if not self.candidates:
            raise ValueError("There are no candidates to pick from; /candidates draws some.")
        if not 1 <= number <= len(self.candidates):
            raise ValueError(f"There is no candidate {number}; candidates are 1 to {len(self.candidates)}.")
        self._replace_last(self.candidates[number - 1])
        return self.last.reply

    def undo(self) -> ChatTurn:
        """Remove and return the last turn. Raises ValueError if there is none."""
        last = self.last
        self.turns, self.candidates = self.turns[:-1], ()
        return last

    def clear(self) -> None:
        """Remove all turns; the steering remains."""
        self.turns, self.candidates = (), ()

    def steer(self, steering: Steering) -> None:
        """Set the steering of the next replies.

        Raises:
            ValueError: if the policy cannot follow it; the steering remains as it was.
        """
        self.engine.sample(self.policy, [], self.sampling, steering=steering)  # no prompt: only a check
        self.steering = steering

    @property
    def last(self) -> ChatTurn:
        """The last turn. Raises ValueError if there is none."""
        if not self.turns:
            raise ValueError("The conversation is empty.")
        return self.turns[-1]

    def messages(self) -> tuple[dict[str, str], ...]:
        """Return the chat messages that the policy sees."""
        return agent_view(_messages(self.turns), self.system_prompt)

    def _draw(
        self, before: Sequence[ChatTurn], text: str, draw: int, number: int, on_text: OnText | None = None
    ) -> tuple[Candidate, ...]:
        view = agent_view([*_messages(before), Message("user", text)], self.system_prompt)
        prompt = Prompt(view, ("chat", len(before), draw))
        try:
            (samples,) = self.engine.sample(self.policy, [prompt], self.sampling, number, self.steering, on_text)
        except TemplateError as error:  # such as of a template without system messages
            raise ValueError(f"The model's chat template does not accept this conversation: {error}") from error
        if not samples:
            raise ValueError(
                f"The conversation and a reply of {self.sampling.max_new_tokens} tokens do not fit the model's "
                "context. /undo removes a turn, /new starts a new conversation."
            )
        return tuple(parse_candidate(sample, self.blocks) for sample in samples)

    def _replace_last(self, turn: ChatTurn) -> None:
        self.turns = (*self.turns[:-1], turn)


def _messages(turns: Sequence[ChatTurn]) -> list[Message]:
    return [message for turn in turns for message in (Message("user", turn.user), turn.reply.message)]


def add_boost(steering: Steering, field: str, keyword: str, weight: float) -> Steering:
    """Return the steering with a boost of a keyword; it replaces a fixed value, and weight 0 removes the boost."""
    boosts: Mapping[Any, Mapping[str, float]] = steering.boosts
    weights = {**boosts.get(field, {}), keyword: weight}
    if weight == 0:
        del weights[keyword]
        return _steer_field(steering, field, weights, steering.fixed)
    return _steer_field(steering, field, weights, _without(steering.fixed, field))


def fix_value(steering: Steering, field: str, value: str | tuple[str, ...] | None) -> Steering:
    """Return the steering with a fixed value, which replaces boosts of the field."""
    return _steer_field(steering, field, {}, dict[Any, Any](steering.fixed) | {field: value})


def clear_field(steering: Steering, field: str | None) -> Steering:
    """Return the steering without this field, or an empty one for None."""
    return _steer_field(steering, field, {}, _without(steering.fixed, field)) if field else Steering()


def _without(values: Mapping[Any, Any], field: str) -> dict[Any, Any]:
    return {name: value for name, value in values.items() if name != field}


def _steer_field(steering: Steering, field: str, weights: Mapping[str, float], fixed: Mapping[Any, Any]) -> Steering:
    """Return the steering with these boosts of a field. Raises ValueError if a field cannot hold a value."""
    boosts: dict[Any, Any] = {**steering.boosts}
    boosts[field] = weights
    try:
        return Steering(boosts={name: each for name, each in boosts.items() if each}, fixed=dict(fixed))
    except ValidationError as error:
        raise ValueError("; ".join(str(details["msg"]) for details in error.errors())) from error


def save_conversation(conversation: Conversation, path: Path, seed: int, saved: set[Path]) -> Path:
    """Write a conversation as one line of JSON of a training mix (`corpora.conversations`), atomically.

    `messages` are those that the policy sees. `chat` has the settings; its `steered` has one entry per reply.

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
    chat = {
        "policy": conversation.policy,
        "blocks": conversation.blocks,
        "seed": seed,
        "sampling": conversation.sampling.model_dump(),
        "steered": [turn.steering.model_dump() for turn in conversation.turns],
    }
    record = json.dumps({"messages": conversation.messages(), "chat": chat}, ensure_ascii=False)
    try:
        with atomic_file(target) as partial:
            partial.write_text(record + "\n", "utf-8")
    except (OSError, UnicodeEncodeError) as error:
        raise ValueError(f"{path} cannot be written: {error}") from error
    saved.add(target)
    return path
